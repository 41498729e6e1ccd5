"""Names each convolution's part in a segmentation network: stem, encoder, decoder or head.

Roles come from executed order, resolution and attribute names, never from classes, so that a user's own U-Net
and any segmentation_models_pytorch network are read alike.
"""

from __future__ import annotations

import math

from .trace import Operation

HEAD_NAMES = ("segmentation_head", "classification_head")


def block_of(layer: str) -> str:
    """The block of a layer: the module that owns it directly (`down1.conv1` -> `down1`).

    Table A.4 of MBU-Net ranks blocks ("layers" there): two convolutions, or one transposed convolution.
    """
    return layer.rpartition(".")[0] or layer


def assign_roles(convolutions: dict[str, list[Operation]]) -> dict[str, str]:
    """Layer name -> role.

    The first executed convolution and those in its block are the stem; the last executed one and everything under
    a name such as `segmentation_head` is the head. Of the rest, what runs up to the lowest resolution is the
    encoder and what runs after it the decoder.

    Args:
        convolutions: `Trace.convolutions()`.
    """
    order = sorted(convolutions, key=lambda name: convolutions[name][0].index)
    if not order:
        return {}
    areas = {name: math.prod(convolutions[name][0].shape[2:]) for name in order}
    spatial = [name for name in order if areas[name] > 1] or order
    lowest = min(areas[name] for name in spatial)
    turn = max(convolutions[name][0].index for name in spatial if areas[name] == lowest)
    first, last = order[0], max(order, key=lambda name: convolutions[name][-1].index)
    roles = {}
    for name in order:
        index = convolutions[name][0].index
        if name == last or any(part in HEAD_NAMES for part in name.split(".")):
            roles[name] = "head"
        elif name == first or (block_of(name) == block_of(first) and "." in first):
            roles[name] = "stem"
        else:
            roles[name] = "encoder" if index <= turn and not name.startswith("decoder") else "decoder"
    return roles
