"""Packages compiled by AOTInductor (``lightning_mbu.export``): to load one takes torch and this package alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from . import _library


class Package:
    """A network out of a ``.pt2`` file. Made by :func:`load_package`.

    Attributes:
        channels: of the input.
        sizes: smallest, largest and multiple of the height, and of the width, pixels.
    """

    def __init__(self, path: Path):
        self._network = torch._inductor.aoti_load_package(str(path))
        facts = self._network.get_metadata()
        if "mbu_channels" not in facts:
            raise ValueError(
                f"{path} was not written by lightning_mbu.export. Use torch._inductor to load it."
            )
        self.channels = int(facts["mbu_channels"])
        self.sizes = tuple(tuple(map(int, facts[f"mbu_{axis}"].split())) for axis in ("height", "width"))

    def __call__(self, x: Tensor) -> Tensor:
        """Float32 ``[N, C, H, W]`` on the CPU -> what the trained model returns.

        Raises:
            TypeError: not a float32 tensor.
            ValueError: on another device, or of a size that the package does not take.
        """
        # Compiled code checks nothing: at a wrong size it would read past the image.
        if x.dtype != torch.float32:
            raise TypeError(f"the input is {x.dtype}; a package takes a float32 tensor. Use x.float().")
        if x.device.type != "cpu":
            raise ValueError(f"the input is on {x.device}; this package runs on the CPU. Use x.cpu().")
        if x.dim() != 4 or x.shape[0] < 1 or x.shape[1] != self.channels:
            raise ValueError(
                f"the input has shape {tuple(x.shape)}; this package takes [N, {self.channels}, H, W]."
            )
        for axis, pixels, (smallest, largest, multiple) in zip(
            ("height", "width"), x.shape[2:], self.sizes, strict=True
        ):
            if not smallest <= pixels <= largest or pixels % multiple:
                raise ValueError(
                    f"the {axis} is {pixels} pixels; this package takes {smallest} to {largest} in multiples "
                    f"of {multiple}. Pad or resize the images, or export for an example of their size."
                )
        return self._network(x)


def load_package(path: str | Path) -> Package:
    """Loads a ``.pt2`` package.

    Args:
        path: written by ``lightning_mbu.export`` on a processor with the same instruction sets.

    Returns:
        A callable: float32 ``[N, C, H, W]`` -> what the trained model returns.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: this install has no kernels, or the file is no package.
        ValueError: a package of something else.
    """
    _library.require()
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    return Package(Path(path))
