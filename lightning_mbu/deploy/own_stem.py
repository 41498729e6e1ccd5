"""The packed network's own stem inside the trained network, for comparison.

A float sum depends on its order, so the packed stem and ATen's convolution differ by rounding. With the packed
stem's sums in the trained network, all that follows must agree to the last bit, and the sums themselves are held
against the error bound of a float sum (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mbu_ops.stem import untile_stem_weight

from .graph import constant, is_call, mbu
from .packed import PackedModel


@dataclass(frozen=True)
class Stem:
    """One fused float convolution of a packed model: the tiled weight, the plain one, and its geometry."""

    tiled: Tensor
    weight: Tensor
    geometry: tuple[list[int], list[int], list[int]]

    def sums(self, x: Tensor) -> Tensor:
        """float32 `[N, C, H, W]` -> `[N, OC, OH, OW]`, as the packed model sums them."""
        nothing = torch.empty(0, 2, self.weight.shape[0])
        return torch.ops.mbu.stem_stream(x, self.tiled, nothing, None, *self.geometry)[0].contiguous()

    def bound(self, x: Tensor) -> Tensor:
        """Largest difference between two orders of summing, for each sum."""
        products = self.weight[0].numel()
        stride, padding, dilation = self.geometry
        magnitude = torch.conv2d(
            x.double().abs(), self.weight.double().abs(), None, stride, padding, dilation
        )
        return magnitude * (2 * (products + 1) * torch.finfo(torch.float32).eps)


def stems_of(packed: PackedModel) -> list[Stem]:
    """The fused float convolutions of `packed`."""
    stems = []
    for node in packed.graph_module.graph.nodes:
        if is_call(node, mbu.stem_threshold.default, mbu.stem_stream.default):
            tiled, channels_of = (
                constant(packed.graph_module, node.args[1]),
                constant(packed.graph_module, node.args[2]),
            )
            assert tiled is not None and channels_of is not None
            weight = untile_stem_weight(tiled, channels_of.shape[-1])
            stems.append(Stem(tiled, weight, tuple(list(pair) for pair in node.args[4:7])))  # type: ignore[arg-type]
    return stems


class OwnStem(TorchFunctionMode):
    """Under it, convolutions that the packed model runs as a stem give the packed stem's sums.

    Attributes:
        outside: sums further from ATen's than rounding explains.
    """

    def __init__(self, stems: list[Stem]):
        super().__init__()
        self.stems = stems
        self.outside = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not torch.conv2d or kwargs or len(args) < 2:
            return result
        x, weight, bias = [*args, None][:3]
        for stem in self.stems:
            if weight.shape == stem.weight.shape and torch.equal(weight.detach().cpu(), stem.weight):
                x = x.detach().cpu()
                own, offset = stem.sums(x), 0 if bias is None else bias.detach().cpu()[:, None, None]
                difference = (own.double() + offset - result.detach().cpu().double()).abs()
                slack = (
                    0 if bias is None else (own.double().abs() + abs(offset)) * torch.finfo(torch.float32).eps
                )
                self.outside += int((difference > stem.bound(x) + slack).sum())
                return (own + offset).to(result.device)
        return result
