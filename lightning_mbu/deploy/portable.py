"""A trained network as ordinary float operations: every one-bit layer a convolution of -1 and +1 with -1, 0 and +1.

Sums of ones are exact in float32, so it computes the trained network's output, at float speed, wherever there are
convolutions: in an ONNX runtime, on an accelerator without kernels of ours.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..compiled import inside_compiled, without_compiled
from ..layers import QuantizedConvolution
from ..linear import MaskedBinaryLinear


class PortableLinear(nn.Module):
    """`scale * linear(sign(x - threshold), weight) + bias` in float32, roundings in the trained layer's order."""

    weight: Tensor
    threshold: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: MaskedBinaryLinear):
        super().__init__()
        self.register_buffer("weight", layer.quantized_weight().float())
        self.register_buffer("threshold", layer.threshold.float().clone())
        scale = layer.effective_scale()
        self.register_buffer("scale", None if scale is None else scale.float().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[..., C]` -> `[..., OC]`."""
        y = nn.functional.linear(torch.where(x >= self.threshold, 1.0, -1.0), self.weight)
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias


class PortableConvolution(nn.Module):
    """`scale * conv(sign(x - threshold), weight) + bias` in float32, roundings in the trained layer's order."""

    weight: Tensor
    threshold: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: QuantizedConvolution):
        super().__init__()
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        self.transposed = isinstance(layer, nn.ConvTranspose2d)
        self.geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
        self.output_padding: Any = layer.output_padding
        scale = layer.effective_scale()
        self.register_buffer("weight", layer.quantized_weight().float())
        self.register_buffer("threshold", layer.threshold.float().view(1, -1, 1, 1).clone())
        self.register_buffer("scale", None if scale is None else scale.float().view(1, -1, 1, 1).clone())
        self.register_buffer(
            "bias", None if layer.bias is None else layer.bias.float().view(1, -1, 1, 1).clone()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[N, C, H, W]` -> `[N, OC, H', W']`."""
        signs = torch.where(x >= self.threshold, 1.0, -1.0)
        stride, padding, dilation, groups = self.geometry
        if self.transposed:
            y = nn.functional.conv_transpose2d(
                signs, self.weight, None, stride, padding, self.output_padding, groups, dilation
            )  # fmt: skip
        else:
            y = nn.functional.conv2d(signs, self.weight, None, stride, padding, dilation, groups)
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def portable(model: nn.Module) -> nn.Module:
    """A copy of a trained model, on the CPU in evaluation mode, that needs neither this package nor its kernels' types.

    Args:
        model: trained with `MBUQuantize` or made by `prepare`, all gates at 1.
    """
    changed = without_compiled(copy.deepcopy(inside_compiled(model))).cpu().eval()
    replacements: dict[int, nn.Module] = {}
    for name, module in list(changed.named_modules(remove_duplicate=False)):
        if isinstance(module, QuantizedConvolution):
            kind: Any = PortableLinear if isinstance(module, MaskedBinaryLinear) else PortableConvolution
            new = replacements.setdefault(id(module), kind(module))
            owner, _, attribute = name.rpartition(".")
            setattr(changed.get_submodule(owner), attribute, new)
    return changed
