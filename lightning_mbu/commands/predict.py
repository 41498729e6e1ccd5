"""mbu predict: images and videos in, masks and overlays out, one image at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..drawing import palette
from .images import VIDEOS, ImageFile, find_images, normalise, read_image, segment
from .trained import read_packed
from .video import Video, VideoWriter


def overlay(image: np.ndarray, mask: np.ndarray, one_class: bool) -> np.ndarray:
    """Half the image, half the colour of its class; the background of a single class stays as it is.

    Args:
        image: uint8 `[H, W, 1 or 3]`.
        mask: uint8 `[H, W]` of class indices.
        one_class: 1 is the class and 0 none.

    Returns:
        uint8 `[H, W, 3]`.
    """
    image = np.broadcast_to(image, (*mask.shape, 3))
    colours = palette(256)[mask - 1 if one_class else mask]
    mixed = ((image.astype(np.uint16) + colours) // 2).astype(np.uint8)
    return np.where(mask[..., None] == 0, image, mixed) if one_class else mixed


def run(options: Any, console: Console) -> int:
    """`mbu predict`; Ctrl-C leaves the masks that are written already."""
    if not 0 < options.threshold < 1:
        raise ValueError(f"--threshold {options.threshold} must be a probability between 0 and 1.")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads {options.threads} must be at least 1.")
    files = find_images(options.images, options.limit, videos=True)
    _check_targets(files, options.output)
    network = read_packed(options.packed)
    before = torch.get_num_threads()
    done: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
        with torch.inference_mode(), Progress(*columns, console=console, transient=True) as progress:
            for file in progress.track(files, description="segmenting"):
                if file.path.suffix.lower() in VIDEOS:
                    done.append(_predict_video(file, network, options, progress))
                else:
                    done.append(_predict_image(file, network, options))
    except KeyboardInterrupt:
        console.print(
            f"Stopped after {len(done)} of {len(files)} files; their masks are in {options.output}."
        )
        return 130
    finally:
        torch.set_num_threads(before)
    if options.json:
        print(json.dumps({"output": str(options.output), "images": done}))
    else:
        kinds = "masks and overlays" if options.overlays else "masks"
        frames = sum(x.get("frames", 0) for x in done)
        images = len(done) - sum("frames" in x for x in done)
        counts = [f"{images} images"] * bool(images) + [f"{frames} frames"] * bool(frames)
        console.print(f"{kinds} of {' and '.join(counts)} in {options.output}", highlight=False)
    return 0


def _check_targets(files: list[ImageFile], output: Path) -> None:
    """Raises ValueError where a mask or an overlay would replace one of the images."""
    images = {file.path.resolve() for file in files}
    for file in files:
        for ending in (".png", "_overlay.jpg", "_overlay.mp4"):
            target = Path(f"{output / file.name}{ending}")
            if target.resolve() in images:
                raise ValueError(f"{target} would replace a file of yours. Choose another --output.")


def _segment(image: np.ndarray, network: Any, options: Any) -> tuple[np.ndarray, bool, int]:
    """Class of every pixel, uint8 `[H, W]`; whether there is one class alone; how many values there can be."""
    classes: list[int] = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        logits = network(x)
        classes.append(logits.shape[1] if isinstance(logits, torch.Tensor) else 0)
        return logits

    x = normalise(image, options.normalise)
    mask = segment(counted, x, options.size, network.input_spec.multiple, options.threshold)
    return mask, classes[0] == 1, max(2, classes[0])


def _save_mask(path: str, mask: np.ndarray, one_class: bool) -> None:
    """One class in black and white, so that any viewer shows it; more as indices with a palette for viewers."""
    picture = Image.fromarray(mask * 255 if one_class else mask)
    if not one_class:
        picture.putpalette(palette(256).tobytes())
    picture.save(path)


def _predict_image(file: ImageFile, network: Any, options: Any) -> dict[str, Any]:
    image = read_image(file.path, network.input_spec.channels)
    mask, one_class, values = _segment(image, network, options)
    target: Path = options.output / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    written = {"image": str(file.path), "mask": f"{target}.png"}
    _save_mask(written["mask"], mask, one_class)
    if options.overlays:
        written["overlay"] = f"{target}_overlay.jpg"
        Image.fromarray(overlay(image, mask, one_class)).save(written["overlay"], quality=92)
    shares = np.bincount(mask.ravel(), minlength=values) / mask.size
    return {**written, "shares": shares.round(6).tolist()}


def _predict_video(file: ImageFile, network: Any, options: Any, progress: Progress) -> dict[str, Any]:
    """A mask for every frame in a folder of the video's name, and one video of overlays."""
    video = Video(file.path, network.input_spec.channels)
    target: Path = options.output / file.name
    target.mkdir(parents=True, exist_ok=True)
    film = options.output / f"{file.name}_overlay.mp4"
    writer = VideoWriter(film, video.rate) if options.overlays else None
    count, complete = 0, False
    task = progress.add_task(file.path.name, total=video.frames)
    try:
        for frame in video:
            mask, one_class, _ = _segment(frame, network, options)
            _save_mask(str(target / f"{count:06d}.png"), mask, one_class)
            if writer is not None:
                writer.add(overlay(frame, mask, one_class))
            count += 1
            progress.advance(task)
        complete = True
    finally:
        progress.remove_task(task)
        if writer is not None:
            writer.close(complete)
    found = {"video": str(file.path), "frames": count, "masks": str(target)}
    return {**found, "overlay": str(film)} if writer is not None else found
