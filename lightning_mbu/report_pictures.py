"""Pictures of the report page: images, their masks, and what a network got wrong in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from .drawing import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    NOTHING,
    TRUE_POSITIVE,
    data_uri,
    dice,
    errors_image,
    palette,
)

Panel = tuple[str, np.ndarray, str]  # caption, uint8 [H, W, 3], score
IGNORE = 255  # class number of pixels without a label


@dataclass(frozen=True)
class PictureRow:
    """One image with its true and its predicted masks.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W], the truth.
        packed_prediction: bool [H, W].
        float_prediction: bool [H, W], or None where no float network was trained.
        name: shown beside the pictures.

    Raises:
        ValueError: an array has another type or shape.
    """

    image: np.ndarray
    mask: np.ndarray
    packed_prediction: np.ndarray
    float_prediction: np.ndarray | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for field_name in ("mask", "packed_prediction", "float_prediction"):
            array = getattr(self, field_name)
            if array is not None and (array.dtype != np.bool_ or array.shape != self.image.shape[:2]):
                raise ValueError(
                    f"{field_name} of picture {self.name!r} is {array.dtype} {list(array.shape)}; expected "
                    "bool "
                    f"{list(self.image.shape[:2])}, the size of its image. Threshold the logits at 0 first."
                )

    def panels(self) -> list[Panel]:
        """Image, truth, and the errors of each network."""
        found = [("image", self.image, ""), ("true mask", errors_image(self.mask, self.mask), "")]
        for name, prediction in (("float", self.float_prediction), ("packed", self.packed_prediction)):
            if prediction is not None:
                score = f"Dice {dice(prediction, self.mask):.3f}"
                found.append((name, errors_image(prediction, self.mask), score))
        return found


@dataclass(frozen=True)
class ClassPictureRow:
    """One image with its true and its predicted classes.

    Args:
        image: uint8 [H, W, 3].
        classes: uint8 [H, W], the truth; 255 where there is no label.
        predicted: uint8 [H, W].
        name: shown above the pictures.

    Raises:
        ValueError: an array has another type or shape.
    """

    image: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("classes", "predicted"):
            array = getattr(self, name)
            if array.dtype != np.uint8 or array.shape != self.image.shape[:2]:
                raise ValueError(
                    f"{name} of picture {self.name!r} is {array.dtype} {list(array.shape)}; expected uint8 "
                    f"{list(self.image.shape[:2])}, one class number per pixel of its image."
                )

    def panels(self) -> list[Panel]:
        """Image, true and predicted classes in colours, and where they differ."""
        colours = palette(256)
        colours[IGNORE] = NOTHING
        labelled = self.classes != IGNORE
        right = self.classes == self.predicted
        wrong = np.empty_like(self.image)
        wrong[:] = NOTHING
        wrong[right & labelled] = TRUE_POSITIVE
        wrong[~right & labelled] = FALSE_POSITIVE
        share = f"{(right & labelled).sum() / max(int(labelled.sum()), 1):.1%} right"
        return [
            ("image", self.image, ""), ("true classes", colours[self.classes], ""),
            ("packed", colours[self.predicted], ""), ("errors", wrong, share),
        ]  # fmt: skip


def pictures_html(rows: Sequence[PictureRow | ClassPictureRow]) -> str:
    """The section of the page."""
    entries = [
        (TRUE_POSITIVE, "found"),
        (FALSE_POSITIVE, "false positive"),
        (FALSE_NEGATIVE, "false negative"),
    ]
    if any(isinstance(row, ClassPictureRow) for row in rows):
        entries = [(TRUE_POSITIVE, "right class"), (FALSE_POSITIVE, "wrong class"), (NOTHING, "no label")]
    items = "".join(f'<li><i style="background:rgb{colour}"></i>{name}</li>' for colour, name in entries)
    return f'<section><h2>Pictures</h2><ul class="legend">{items}</ul>{"".join(map(_row, rows))}</section>'


def _row(row: PictureRow | ClassPictureRow) -> str:
    panels = row.panels()
    figures = "".join(
        f'<figure><img src="{data_uri(image)}" alt="{escape(f"{row.name} {name}".strip())}">'
        f"<figcaption>{name}{f' <b>{score}</b>' if score else ''}</figcaption></figure>"
        for name, image, score in panels
    )
    heading = f"<h3>{escape(row.name)}</h3>" if row.name else ""
    return f'{heading}<div class="pictures" style="--panels:{len(panels)}">{figures}</div>'
