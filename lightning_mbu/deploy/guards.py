"""What a packed file may say. Checked before anything is made from it: a file may come from anywhere.

torch.fx turns a graph into Python source and runs it, and writes names into that source as they are. So a name could be
a program; every name of a file passes through `plain_name` or `identifier` first.
"""

from __future__ import annotations

import keyword
import math
import re
from typing import Any

# Dense weights that grouped layers of one file may unpack to, beyond a multiple of the file: they are stored without
# the zeros between the groups. MobileNetV2 with every depthwise layer packed has 16 million.
LARGEST_SPREAD = 2**28
_LARGEST_SIZE = 2**31 - 1  # of one dimension: a header of tiled weights holds 32 bits


class PackedFileError(ValueError):
    """A file that is not a packed model, is damaged, or is written by a newer version."""


def plain_name(name: Any, what: str) -> str:
    """`name` if it is words joined by dots: letters, digits, `_` and `-`, as modules and their tensors have.

    Raises:
        PackedFileError: it is anything else.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
        raise PackedFileError(f"{what} is named {name!r:.80}, which is no plain name.")
    return name


def identifier(name: Any, what: str) -> str:
    """`name` if it may stand for a variable.

    Raises:
        PackedFileError: it is anything else.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise PackedFileError(f"{what} is named {name!r:.80}, which is no identifier.")
    return name


def whole_number(value: Any, least: int, what: str) -> int:
    """`value` if it is an int from `least` to 2^31 - 1.

    Raises:
        PackedFileError: it is anything else.
    """
    if type(value) is not int or not least <= value <= _LARGEST_SIZE:
        raise PackedFileError(f"{what} is {value!r:.80}; it must be a whole number from {least} on.")
    return value


def shape_of(sizes: Any, what: str, least: int = 0) -> list[int]:
    """`sizes` if it is a list of sizes.

    Raises:
        PackedFileError: it is anything else.
    """
    if not isinstance(sizes, list) or len(sizes) > 64:
        raise PackedFileError(f"the shape of {what} is {sizes!r:.80}; it must be a list of at most 64 sizes.")
    return [whole_number(size, least, f"a size of {what}") for size in sizes]


class Spread:
    """How far grouped layers may unpack.

    Args:
        stored: bytes of the weights in the file.
    """

    def __init__(self, stored: int):
        self.left = (
            LARGEST_SPREAD + 16 * stored
        )  # 8 weights a byte, binary; as much again for what pads words

    def take(self, shape: list[int], segments: tuple[int, ...], groups: int, name: str) -> None:
        """Counts one layer.

        Args:
            shape: `[OC, KH, KW, C / groups]`.
            segments: see `PackedLayer`.
            groups: as in `nn.Conv2d`.
            name: for messages.

        Raises:
            PackedFileError: the numbers contradict each other, or ask for more memory than such a file may.
        """
        channels = shape[3] * groups
        if shape[0] % groups or channels != sum(segments):
            raise PackedFileError(
                f"layer {name!r:.80} has weights of shape {shape} in {groups} groups for inputs of {list(segments)} "
                "channels, which do not fit together."
            )
        self.left -= math.prod(shape) * groups
        if self.left < 0:
            raise PackedFileError(
                f"layer {name!r:.80} unpacks to {math.prod(shape) * groups} weights; that is more than a file of "
                "this size may ask for."
            )
