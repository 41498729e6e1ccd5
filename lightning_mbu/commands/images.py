"""Images of any size from files and folders, as a network takes them, and its answers back in their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet in RGB, as in torchvision


@dataclass(frozen=True)
class ImageFile:
    """An image, and where its mask belongs below the output folder: `name`, without a suffix."""

    path: Path
    name: Path


def find_images(
    places: Sequence[str | Path], limit: int | None = None, videos: bool = False
) -> list[ImageFile]:
    """The image files in `places`, folders with their subfolders in the order of their names.

    Args:
        places: files and folders.
        limit: take the first so many.
        videos: a place may be a video file; those inside folders are left alone.

    Raises:
        FileNotFoundError: a place does not exist.
        ValueError: a video, a file of another kind, a folder without images, two images of one name, or a limit
            below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit} must be at least 1.")
    found: list[ImageFile] = []
    for place in map(Path, places):
        if place.is_dir():
            files = [f for f in sorted(place.rglob("*")) if f.suffix.lower() in SUFFIXES and f.is_file()]
            if not files:
                raise ValueError(f"{place} holds no images ({', '.join(SUFFIXES)}).")
            found += [ImageFile(file, file.relative_to(place).with_suffix("")) for file in files]
        elif not place.is_file():
            raise FileNotFoundError(f"there is no file or folder {place}.")
        elif place.suffix.lower() in VIDEOS and not videos:
            raise ValueError(
                f"{place} is a video; images are needed here. Take it apart first: "
                f"ffmpeg -i {place.name} frames/%06d.png"
            )
        elif place.suffix.lower() not in VIDEOS and place.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{place} is no image; known are {', '.join(SUFFIXES)}.")
        else:
            found.append(ImageFile(place, Path(place.stem)))
    found = found[:limit]
    by_name: dict[Path, Path] = {}
    for image in found:
        # Frames of a video go into a folder of its name, which an image's mask would not overwrite.
        if image.path.suffix.lower() in VIDEOS:
            continue
        other = by_name.setdefault(image.name, image.path)
        if other != image.path:
            raise ValueError(
                f"{other} and {image.path} would get the same mask {image.name}.png. Rename one, or run twice with "
                "another --output."
            )
    return found


def read_image(path: Path, channels: int) -> np.ndarray:
    """uint8 `[H, W, channels]`, turned upright as its EXIF data says.

    Raises:
        ValueError: other than 1 or 3 channels are wanted, more than 8 bits per value, or a damaged file.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(
            f"the network takes {channels} channels; image files have 1 or 3. Use it from Python."
        )
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(
                    f"{path} has more than 8 bits per value (mode {image.mode}). Scale it to 8 bits first, as the "
                    "training images were."
                )
            array = np.asarray(ImageOps.exif_transpose(image).convert(modes[channels]))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is damaged or no image: {error}") from error
    return array.reshape(*array.shape[:2], channels)


def normalise(image: np.ndarray, how: str) -> Tensor:
    """uint8 `[H, W, C]` -> float32 `[1, C, H, W]`.

    Args:
        how: `"image"` (mean 0, deviation 1 over its pixels and channels), `"imagenet"`, `"unit"` (0 to 1) or
            `"none"` (0 to 255).

    Raises:
        ValueError: ImageNet's statistics for an image without colours.
    """
    x = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1))[None]
    if how == "image":
        deviation, mean = torch.std_mean(x.double(), correction=0)
        # Below one grey level of deviation there is nothing but rounding to scale up.
        return ((x - mean.float()) / deviation.clamp_min(1).float()).contiguous()
    if how == "imagenet":
        if x.shape[1] != 3:
            raise ValueError("--normalise imagenet is for images in colour; this network takes one channel.")
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))
        return ((x / 255 - mean) / deviation).contiguous()
    return (x / 255 if how == "unit" else x).contiguous()


def fit(x: Tensor, size: Sequence[int] | None, multiple: int) -> Tensor:
    """Resizes to `size`, or repeats the last row and column up to the next multiple; `[1, C, H, W]`.

    Raises:
        ValueError: `size` is not a multiple of `multiple`.
    """
    if size is None:
        bottom, right = (-n % multiple for n in x.shape[2:])
        return nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
    if any(n < 1 or n % multiple for n in size):
        wanted = "x".join(str(max(multiple, -(-n // multiple) * multiple)) for n in size)
        raise ValueError(
            f"--size {size[0]}x{size[1]}: this network takes multiples of {multiple}. Use --size {wanted}."
        )
    return nn.functional.interpolate(x, tuple(size), mode="bilinear", antialias=True)


def segment(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    size: Sequence[int] | None,
    multiple: int,
    threshold: float,
) -> np.ndarray:
    """Class of every pixel of one image.

    Args:
        network: float32 `[1, C, H, W]` -> logits `[1, classes, H, W]`.
        x: normalised image `[1, C, H, W]`.
        size, multiple: see `fit`.
        threshold: probability from which a pixel counts where there is one class, in (0, 1).

    Returns:
        uint8 `[H, W]`, values below 256: 0 and 1 with one class, the likeliest class with more.

    Raises:
        ValueError: the network returns something else, or more than 256 classes.
    """
    height, width = x.shape[2:]
    fitted = fit(x, size, multiple)
    logits = network(fitted)
    if not isinstance(logits, Tensor) or logits.dim() != 4 or logits.shape[1] > 256:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returns {shape}; masks need logits [N, 1 to 256 classes, H, W].")
    if logits.shape[2:] != fitted.shape[2:]:
        logits = nn.functional.interpolate(logits, fitted.shape[2:], mode="bilinear")
    if size is None:
        logits = logits[:, :, :height, :width]
    elif logits.shape[2:] != (height, width):
        logits = nn.functional.interpolate(logits, (height, width), mode="bilinear")
    classes = logits[0, 0].sigmoid() >= threshold if logits.shape[1] == 1 else logits[0].argmax(0)
    return classes.to(torch.uint8).numpy()
