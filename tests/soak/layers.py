"""Random calls of every operation, each compared with the reference on every kernel of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mbu_ops.functional as F
import mbu_ops.reference as R
from mbu_ops import pack_bits, pack_weight, unpack_bits
from mbu_ops.backends import use_cpu_kernel

from .memory import PLACES, put

INT32 = torch.iinfo(torch.int32)
# Tails of every width, and both sides of the channels from which kernels change their way.
CHANNELS = st.sampled_from([1, 2, 3, 8, 16, 31, 32, 33, 40, 64, 65, 96, 129, 255, 256, 288])
STORED = [torch.float32, torch.bfloat16, torch.int8]  # types of a stream
OUTPUTS = st.sampled_from([1, 2, 5, 16, 31, 32, 33, 48, 64, 70, 97, 128])


class Wrong(AssertionError):
    """A kernel's result is not the reference's."""


@dataclass
class Case:
    """One layer: draws what it is made of, then compares.

    Attributes:
        draw: from hypothesis.
        kernels: that run it.
        keep: writes down what is tried.
        told: what was drawn, for the report of a fault.
        compared: results compared so far.
    """

    draw: Callable[[Any], Any]
    kernels: list[str]
    keep: Callable[[str], None]
    told: dict[str, Any] = field(default_factory=dict)
    compared: int = 0

    def pick(self, name: str, choices: Any) -> Any:
        strategy = choices if isinstance(choices, st.SearchStrategy) else st.sampled_from(choices)
        self.told[name] = self.draw(strategy)
        return self.told[name]

    def pair(self, name: str, low: int, high: int) -> tuple[int, int]:
        return self.pick(name, st.tuples(st.integers(low, high), st.integers(low, high)))

    def put(self, tensor: Tensor) -> Tensor:
        return put(tensor, self.draw(PLACES))

    def bits(self, *shape: int) -> Tensor:
        """Packed activations [N, H, W, Cw] for (N, C, H, W), sometimes a slice of wider words."""
        n, c, h, w = shape
        packed = pack_bits(torch.rand(n, h, w, c) < self.pick("share of ones", [0.5, 0.05, 1.0]))
        form = self.draw(st.sampled_from(["dense", "words apart", "rows apart", "images apart"]))
        if form == "words apart":
            wide = torch.randint(INT32.min, INT32.max, (n, h, w, packed.shape[3] + 2), dtype=torch.int32)
            wide[..., 1:-1] = packed
            return self.put(wide[..., 1:-1])
        if form == "rows apart":
            return self.put(torch.cat([packed, packed], 2)[:, :, :w])
        if form == "images apart":
            return self.put(packed.repeat_interleave(2, 0)[::2])
        return self.put(packed)

    def run(self, operation: Callable[[], Any], expected: list[Tensor]) -> None:
        """Compares what `operation` returns under every kernel and a number of threads."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.pick("threads", [1, 2, 3, 5]))
        try:
            for kernel in self.kernels:
                self.keep(f"{kernel}: {self.told}")
                with use_cpu_kernel(kernel):
                    found = operation()
                for place, (a, b) in enumerate(zip(found, expected, strict=True)):
                    if a.dtype != b.dtype or not torch.equal(a, b):
                        raise Wrong(f"{kernel}: result {place} of {self.told}")
                self.compared += 1
        finally:
            torch.set_num_threads(before)


def coarse(*shape: int) -> Tensor:
    """Values of few bits, so that every order of rounding gives the same result."""
    return torch.randint(-32, 33, shape) / 8.0


def strided(case: Case, name: str, values: Tensor) -> Tensor:
    """Float [N, C, H, W] in one of the layouts that a network may hold."""
    form = case.pick(f"layout of {name}", ["contiguous", "channels_last", "channels apart", "pixels apart"])
    if form == "channels_last":
        values = values.contiguous(memory_format=torch.channels_last)
    elif form == "channels apart":
        values = torch.cat([values, values], 1).contiguous(memory_format=torch.channels_last)
        values = values[:, : values.shape[1] // 2]
    elif form == "pixels apart":
        values = values.repeat_interleave(2, 3)[..., ::2]
    return case.put(values)


def thresholds(planes: int, out_channels: int, span: int) -> tuple[Tensor, Tensor]:
    """Integers around what sums reach, exact ends and values no sum reaches; flips with noise above the last channel."""
    threshold = torch.randint(-span - 1, span + 2, (planes, out_channels), dtype=torch.int32)
    odd = torch.rand(planes, out_channels)
    for share, value in ((0.1, INT32.min), (0.2, INT32.max), (0.25, span), (0.3, -span)):
        threshold[(odd < share) & (odd >= share - 0.1)] = value
    shape = (planes, (out_channels + 31) // 32)
    flip = torch.randint(INT32.min, INT32.max, shape, dtype=torch.int32)
    flip *= torch.randint(0, 2, shape, dtype=torch.int32)  # a word of 0 is a case of its own to kernels
    return threshold, flip


def convolution(case: Case) -> None:
    """conv2d and conv_transpose2d: sums, bits and streams of joined inputs."""
    transposed = case.pick("transposed", [False, False, True])
    kernel = case.pick("kernel", [(1, 1), (3, 3), (3, 3), (2, 2), (5, 5), (1, 3), (7, 1), (3, 2), (4, 4)])
    stride, padding = case.pair("stride", 1, 4), case.pair("padding", 0, 4)
    dilation = case.pair("dilation", 1, 3)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    extra = tuple(
        case.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    ) if transposed else (0, 0)  # fmt: skip
    least = [
        -(-(2 * padding[i] - reach[i] - extra[i] + 1) // stride[i]) + 1 if transposed else reach[i] - 2 * padding[i]
        for i in range(2)
    ]  # fmt: skip
    height, width = (
        case.draw(st.integers(max(1, least[i]), max(1, least[i]) + (8, 30)[i])) for i in range(2)
    )
    batch = case.pick("batch", [0, 1, 1, 2, 3])
    parts = case.pick("channels", st.lists(CHANNELS, min_size=1, max_size=3))
    resized = len(parts) > 1 and case.pick("resized", [False, True])
    sizes = [(case.draw(st.integers(1, 9)), case.draw(st.integers(1, 19))) if resized and i else (height, width)
             for i in range(len(parts))]  # fmt: skip
    bits = [case.bits(batch, c, *size) for c, size in zip(parts, sizes, strict=True)]
    size = [height, width] if resized else []
    groups = case.pick("groups", [1, 1, 2, 4]) if len(parts) == 1 else 1
    groups = groups if parts[0] % groups == 0 else 1
    out_channels = case.pick("outputs", OUTPUTS) * groups
    weight = torch.randint(0, 2, (out_channels, sum(parts) // groups, *kernel)) * 2 - 1
    weight *= torch.rand(weight.shape) < case.pick("density", [0.6, 0.6, 0.0, 1.0])
    present = torch.rand(-(-out_channels // 32), -(-weight.shape[1] // 32), *kernel) < case.pick(
        "blocks", [1, 1, 0.3]
    )
    present = present.repeat_interleave(32, 0).repeat_interleave(32, 1)[:out_channels, : weight.shape[1]]
    weight *= present
    planes = case.put(pack_weight(weight, parts, groups))
    case.told |= {"height": height, "width": width, "extra": extra, "sizes": sizes}

    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    if transposed:
        geometry["output_padding"] = extra
    else:
        geometry["pad_value"] = case.pick("pad_value", [0, 0, -1])
    joined = R.join(bits, size)
    dots = (R.conv_transpose2d if transposed else R.conv2d)(joined, planes, **geometry)
    kind = "conv_transpose2d" if transposed else "conv2d"
    layer = (out_channels, kernel)
    tiles: dict[str, Tensor] = {}

    def tiled() -> Tensor:
        tiles["weight"] = put(F.tile_weight(planes), "before a page")
        return tiles["weight"]

    result = case.pick("result", ["sums", "bits", "stream"])
    if result == "sums":
        case.run(lambda: [getattr(F, kind)(bits, tiled(), *layer, size=size, **geometry)], [dots])
    elif result == "bits":
        count = case.pick("planes", [1, 1, 2, 3])
        threshold, flip = map(
            case.put, thresholds(count, out_channels, int(weight.abs().sum() / max(out_channels, 1)))
        )
        rows = [dots.permute(0, 2, 3, 1) >= row for row in threshold]
        expected = [pack_bits(r ^ f) for r, f in zip(rows, unpack_bits(flip, out_channels), strict=True)]
        run = getattr(F, f"{kind}_threshold")
        case.run(lambda: [run(bits, tiled(), threshold, flip, *layer, size=size, **geometry)],
                 [torch.cat(expected, -1)])  # fmt: skip
    else:
        stream(case, kind, bits, tiled, dots, layer, {**geometry, "size": size})


def stream(case: Case, kind: str, bits: Any, tiled: Any, dots: Tensor, layer: Any, geometry: Any) -> None:
    """What follows the sums `dots` in the same pass: affine steps, a shortcut, ReLU, bits or a head."""
    n, out_channels, height, width = dots.shape
    upsample = case.pick("upsample", [1, 1, 2]) if height % 2 == 0 and width % 2 == 0 else 1
    pool = case.pick("pool", [1, 1, 2, 3]) if upsample == 1 else 1
    whole = [[], [out_channels], [2 * out_channels], [out_channels, out_channels]]
    if out_channels % 2 == 0:
        whole += [[out_channels // 2], [out_channels // 2, out_channels // 2]]
    residual = []
    for i, part in enumerate(case.pick("shortcut", whole)):
        values = coarse(n, part, height // upsample * pool, width // upsample * pool)
        values = R.narrow(values, case.pick(f"shortcut type {i}", STORED))
        residual.append(strided(case, f"shortcut {i}", values))
    # Logits are compared where their sums are exact in every order: few bits in all.
    few_bits = kind == "conv2d" and dots.numel() > 0 and float(dots.abs().max()) < 2**10
    head = few_bits and case.pick("head", [False, True])
    affine = case.put(coarse(case.pick("steps", [0, 1] if head else [0, 1, 2]), 2, out_channels))
    planes = 0 if head else case.pick("planes", [0, 1, 2])
    threshold = case.put(coarse(planes, out_channels) * 4) if planes else None
    options: dict[str, Any] = {"pool": pool, "upsample": upsample, "relu": case.pick("relu", [False, True])}
    options["dtype"] = torch.float32 if head else case.pick("dtype", STORED)
    y, packed = R.stream(dots, affine, residual, threshold, **options)
    if head:
        projection = case.put(torch.randint(-1, 2, (case.pick("classes", [1, 2, 17]), out_channels)) / 2)
        bias = coarse(17)
        options |= {"head": projection, "head_bias": case.put(bias[: len(projection)])}
        logits = torch.einsum("nchw,kc->nkhw", y.double(), projection.double())
        y = (logits + options["head_bias"].double().view(1, -1, 1, 1)).float()
    run = getattr(F, f"{kind}_stream")
    case.run(
        lambda: run(bits, tiled(), affine, residual, threshold, *layer, **options, **geometry), [y, packed]
    )
