"""LogPictures: validation images with what the network gets wrong, through whichever logger the Trainer has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from . import companions
from .report_pictures import IGNORE, ClassPictureRow, PictureRow

_GAP = 4  # pixels between the panels of a picture
_GAP_GREY = 128


class LogPictures(Callback):
    """Logs pictures of the first validation images: image, truth, prediction, and errors in colour.

    TensorBoard and Weights & Biases show them beside the curves; a logger that keeps files, such as `CSVLogger`, gets
    PNG files in a folder `pictures` of its own. Without a logger nothing is drawn.

    Batches are pairs of images `[N, C, H, W]` and masks `[N, H, W]` or `[N, 1, H, W]`, or dictionaries with the keys
    `image` and `mask`; masks hold class numbers, 255 where there is no label. The network returns logits `[N, 1, H, W]`
    (above 0: the thing) or `[N, classes, H, W]`.

    Args:
        count: images to draw, from the first batch of the validation.
        every: draw after so many validations; the last one of a run is always drawn.
        name: under which loggers show them.
    """

    def __init__(self, count: int = 4, every: int = 1, name: str = "val/pictures"):
        if count < 1 or every < 1:
            raise ValueError(f"count={count} and every={every} must both be at least 1.")
        super().__init__()
        self.count, self.every, self.name = count, every, name
        self._validations = 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if batch_idx or dataloader_idx or not trainer.is_global_zero or not trainer.loggers:
            return
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        due = self._validations % self.every == 0 or last
        if trainer.sanity_checking or due:
            # In the sanity check too, without showing them: a batch of another form is reported before hours of training.
            pictures = self._draw(trainer, pl_module, batch)
            if not trainer.sanity_checking:
                for logger in trainer.loggers:
                    show(logger, self.name, pictures, trainer.global_step)
        if not trainer.sanity_checking:
            self._validations += 1

    def _draw(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> list[np.ndarray]:
        images, masks = images_and_masks(batch)
        network: Callable[[Tensor], Any] = pl_module
        if type(pl_module).forward is LightningModule.forward:
            network = companions.find_network(pl_module, None)
        # The whole batch, although few are drawn: a compiled network would be compiled again for another size.
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            logits = network(images)
        if not isinstance(logits, Tensor) or logits.ndim != 4:
            raise MisconfigurationException(
                f"LogPictures draws logits [N, classes, H, W], and {type(pl_module).__name__} returns "
                f"{_form(logits)}. Give it a forward that returns them, or leave LogPictures out."
            )
        rows = zip(
            images[: self.count].cpu(), masks[: self.count].cpu(), logits[: self.count].cpu(), strict=True
        )
        return [draw(*row) for row in rows]

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]


def images_and_masks(batch: Any) -> tuple[Tensor, Tensor]:
    """Images `[N, C, H, W]` and class numbers `[N, H, W]` of a batch.

    Raises:
        MisconfigurationException: it is neither a pair nor a dictionary of them.
    """
    pair = (batch.get("image"), batch.get("mask")) if isinstance(batch, dict) else batch
    if isinstance(pair, list | tuple) and len(pair) >= 2:
        images, masks = pair[:2]
        if isinstance(images, Tensor) and isinstance(masks, Tensor) and images.ndim == 4:
            masks = masks[:, 0] if masks.ndim == 4 and masks.shape[1] == 1 else masks
            if masks.ndim == 3:
                return images, masks.long()
    raise MisconfigurationException(
        f"LogPictures reads batches of images [N, C, H, W] and masks [N, H, W], as a pair or under the keys 'image' and "
        f"'mask'; this one is {_form(batch)}. Leave LogPictures out, or subclass it and override _draw."
    )


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, dict):
        return f"a dictionary with the keys {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {', '.join(map(_form, value)) or 'nothing'}"
    return f"a {type(value).__name__}"


def picture(image: Tensor, mask: Tensor, logits: Tensor) -> PictureRow | ClassPictureRow:
    """An image with its truth and what was found.

    Args:
        image: `[C, H, W]` in any scale; its own smallest and largest value become black and white.
        mask: int64 `[H, W]`; any number but 0 is the thing where there is one class.
        logits: `[classes, H, W]`.
    """
    pixels = image.float().nan_to_num()
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp_min(1e-12)
    shown = (pixels[[0, 1, 2] if len(pixels) >= 3 else [0, 0, 0]] * 255).round().byte()
    colours = np.ascontiguousarray(shown.permute(1, 2, 0).numpy())
    if len(logits) > 2:
        return ClassPictureRow(colours, mask.byte().numpy(), logits.argmax(0).byte().numpy())
    found = logits[0] > 0 if len(logits) == 1 else logits[1] > logits[0]
    # Pixels without a label are neither right nor wrong: the truth takes over what was found there.
    truth = torch.where(mask == IGNORE, found, mask > 0) if len(logits) == 2 else mask > 0
    return PictureRow(colours, truth.numpy(), found.numpy())


def draw(image: Tensor, mask: Tensor, logits: Tensor) -> np.ndarray:
    """The panels of a `picture` side by side, uint8 `[H, W', 3]`; arguments as there."""
    panels = [panel for _, panel, _ in picture(image, mask, logits).panels()]
    gap = np.full((panels[0].shape[0], _GAP, 3), _GAP_GREY, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def show(logger: Any, name: str, pictures: list[np.ndarray], step: int) -> None:
    """Hands pictures, uint8 `[H, W, 3]`, to a Lightning logger; one that can keep none is passed over."""
    experiment: Any = getattr(logger, "experiment", None)
    folder = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
    if hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(name, pictures, step)
    elif hasattr(experiment, "add_image"):  # TensorBoard
        for number, picture in enumerate(pictures):
            experiment.add_image(f"{name}/{number}", picture, step, dataformats="HWC")
    elif hasattr(experiment, "log_image") and not hasattr(experiment, "log_artifact"):  # Comet
        for number, picture in enumerate(pictures):
            experiment.log_image(picture, f"{name}/{number}", step=step)
    elif folder:
        place = Path(folder) / "pictures"
        place.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(place / f"{name.replace('/', '-')}-{number}-step{step:06d}.png")
