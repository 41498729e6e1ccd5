"""Every check says the value, the rule and the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mbu_ops.functional as F
from mbu_ops import pack_bits, pack_weight

WEIGHT = torch.ones(40, 33, 3, 3)


def bits(channels: int = 33, height: int = 6, width: int = 7) -> Tensor:
    return pack_bits(torch.ones(1, height, width, channels, dtype=torch.bool))


def tiled() -> Tensor:
    return F.tile_weight(pack_weight(WEIGHT))


def damaged() -> Tensor:
    weight = tiled()
    weight[0] = 7
    return weight


def foreign() -> Tensor:
    """A weight whose header names the layout that the kernel in use does not read."""
    weight = tiled()
    weight[5] = 1 - weight[5]
    return weight


def threshold(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "dtype of bits": (
        lambda: F.conv2d(bits().float(), tiled(), 40, 3),
        "bits is Float; packed activations are int32",
    ),
    "dims of bits": (
        lambda: F.conv2d(bits()[0], tiled(), 40, 3),
        r"bits has 3 dimensions; it must be \[N, H, W",
    ),
    "words apart": (
        lambda: F.conv2d(bits(97).transpose(1, 3)[:, :, :, :2], tiled(), 40, 3),
        r"words of a pixel must be contiguous.*bits.contiguous\(\)",
    ),
    "channel words": (
        lambda: F.conv2d(bits(97), tiled(), 40, 3),
        "bits has 4 channel words but weight was tiled for 2",
    ),
    "out_channels": (lambda: F.conv2d(bits(), tiled(), 41, 3), "out_channels=41 but weight was tiled for 40"),
    "kernel_size": (
        lambda: F.conv2d(bits(), tiled(), 40, 5, 1, 2),
        r"kernel_size=\[5, 5\] but weight was tiled for \[3, 3\]",
    ),
    "planes instead of tiles": (
        lambda: F.conv2d(bits(), pack_weight(WEIGHT), 40, 3),
        "with 5 dimensions; pass the contiguous 1-d result of mbu_ops.functional.tile_weight",
    ),
    "wrong header": (
        lambda: F.conv2d(bits(), damaged(), 40, 3),
        "does not start with the header of a tiled weight",
    ),
    "layout": (
        lambda: F.conv2d(bits(), foreign(), 40, 3),
        "layout '(bits|int8_rows)', but the CPU kernel in use, [a-z0-9_]+, reads '(int8_rows|bits)'; .*use_cpu_kernel",
    ),
    "short header": (lambda: F.conv2d(bits(), tiled()[:3], 40, 3), "does not start with the header"),
    "cut weight": (
        lambda: F.conv2d(bits(), tiled()[:-1], 40, 3),
        "weight has .* words but its header asks for",
    ),
    "large kernel": (
        lambda: F.conv2d(bits(height=2), tiled(), 40, 3),
        "kernel spans 3 in height but the padded input has 2; use a larger image",
    ),
    "pad_value": (lambda: F.conv2d(bits(), tiled(), 40, 3, pad_value=1), "pad_value=1; it must be 0"),
    "stride": (
        lambda: F.conv2d(bits(), tiled(), 40, 3, stride=0),
        r"stride=\[0, 0\]; each value must be in 1\.\.",
    ),
    "padding": (
        lambda: F.conv2d(bits(), tiled(), 40, 3, padding=-1),
        r"padding=\[-1, -1\]; each value must be in 0\.\.",
    ),
    "huge padding": (lambda: F.conv2d(bits(), tiled(), 40, 3, padding=2**31), "each value must be in"),
    "overflow": (
        lambda: F.conv2d(bits(), tiled(), 40, 3, padding=2**31 - 1),
        "overflow 64 bits; the shape arguments cannot be meant",
    ),
    "threshold rows": (
        lambda: F.conv2d_threshold(bits(), tiled(), threshold(40), threshold(1, 2), 40, 3),
        r"threshold has 1 dimensions; it must be \[T, OC\]",
    ),
    "threshold shape": (
        lambda: F.conv2d_threshold(bits(), tiled(), threshold(2, 39), threshold(2, 2), 40, 3),
        r"threshold has shape \[2, 39\]; it must be \[T, OC\] = \[2, 40\]",
    ),
    "threshold dtype": (
        lambda: F.conv2d_threshold(bits(), tiled(), threshold(1, 40).long(), threshold(1, 2), 40, 3),
        "threshold is Long; it must be int32",
    ),
    "flip shape": (
        lambda: F.conv2d_threshold(bits(), tiled(), threshold(2, 40), threshold(2, 3), 40, 3),
        r"flip has shape \[2, 3\]; it must be \[T, ceil\(OC/32\)\] = \[2, 2\]",
    ),
    "output_padding": (
        lambda: F.conv_transpose2d(bits(), tiled(), 40, 3, 2, 1, 2),
        "output_padding=2 in height must be smaller than stride=2 or dilation=1",
    ),
    "no output": (
        lambda: F.conv_transpose2d(bits(height=1), tiled(), 40, 3, 1, 2),
        "the output would have -1 pixels in height",
    ),
    "planes dtype": (
        lambda: F.tile_weight(pack_weight(WEIGHT).long()),
        "planes is Long; weight planes are int32",
    ),
    "planes shape": (
        lambda: F.tile_weight(pack_weight(WEIGHT)[0]),
        r"it must be \[2, OC, KH, KW, ceil\(C/32\)\]",
    ),
    "too many products": (
        lambda: F.tile_weight(torch.zeros(2, 1, 512, 1025, 1, dtype=torch.int32)),
        "one output sums 16793600 products; at most 16777216",
    ),
    "pack dims": (lambda: F.pack(torch.ones(3, 4, 5)), r"x has 3 dimensions; it must be \[N, C, H, W\]"),
    "pack dtype": (
        lambda: F.pack(torch.ones(1, 3, 4, 5).double()),
        "x is Double; it must be float32, bfloat16",
    ),
    "pack threshold": (
        lambda: F.pack(torch.ones(1, 3, 4, 5), torch.ones(4)),
        r"threshold has shape \[4\]; it must be \[C\] for each plane = \[3\]",
    ),
    "unpack channels": (lambda: F.unpack(bits(33), 32), "channels=32 needs 1 words, but bits has 2"),
    "join counts": (lambda: F.join_bits([bits(33)], [33, 2]), "bits has 1 parts and channels 2 counts"),
    "join words": (
        lambda: F.join_bits([bits(33)], [32]),
        "channels=32 needs 1 words, but part 0 of bits has 2",
    ),
    "join sizes": (
        lambda: F.join_bits([bits(33), bits(33, height=2)], [33, 33]),
        "they must agree",
    ),
    "pool window": (
        lambda: F.max_pool2d(bits(height=2), 3),
        "window spans 3 in height but the padded input has 2",
    ),
    "pool padding": (
        lambda: F.max_pool2d(bits(), 3, 1, 2),
        "padding=2 in height is more than half of the window",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message(case: str) -> None:
    call, words = CASES[case]
    with pytest.raises(RuntimeError, match=words) as error:
        call()
    assert "/" not in str(error.value).replace("ceil(C/32)", "").replace("ceil(OC/32)", ""), (
        "no path of a build machine"
    )


@pytest.mark.parametrize(
    "name",
    ["pack", "unpack", "join_bits", "tile_weight", "conv2d", "conv_transpose2d_threshold", "max_pool2d"],
)
def test_cuda_has_its_own_answer(name: str) -> None:
    """Without a GPU only the registration can be seen: the key must lead to our message."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mbu::{name}", "CUDA")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_error_names_the_way_out() -> None:
    with pytest.raises(
        RuntimeError, match="mbu::pack has no CUDA kernels in this version; move the packed model"
    ):
        F.pack(torch.ones(1, 3, 4, 5, device="cuda"))
