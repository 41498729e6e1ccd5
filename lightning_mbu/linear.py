"""Linear layers whose weights and inputs go from float to one bit as a gate rises, as convolutions do (`layers`).

    y = scale * linear(lerp(x, sign(x - threshold), gate), lerp(w / scale, quantize(w), gate)) + bias

A linear layer is a 1x1 convolution whose pixels are the rows of its input, and its thresholds are per input feature.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .layers import QuantizedConvolution
from .plain import adopt
from .trace import Operation, Trace
from .weight_quantizers import INTEGER_KINDS, weight_quantizer


class MaskedBinaryLinear(QuantizedConvolution, nn.Linear):
    """`nn.Linear` with masked-binary or binary weights and binary inputs."""

    groups = 1

    @property
    def in_channels(self) -> int:  # type: ignore[override]
        return self.in_features

    @property
    def out_channels(self) -> int:  # type: ignore[override]
        return self.out_features

    def as_images(self, x: Tensor) -> Tensor:
        """`[..., C]` -> `[1, C, rows, 1]`."""
        return x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        weight, scale = self._gated_weight(self.effective_scale())
        signs = self.binarize(self.as_images(x)).permute(0, 2, 3, 1).reshape(x.shape)
        y = nn.functional.linear(signs, weight)
        # The packed layer repeats these two roundings in this order; keep them apart and in step with it.
        if scale is not None:
            y = y * scale
        return y if self.bias is None else y + self.bias


def quantize_linear(
    layer: nn.Linear,
    kind: str,
    *,
    mask_rule: str = "twn",
    sparsity: float = 0.5,
    scale: bool | str = True,
    threshold: str = "zero",
    estimator: str = "clipped",
    absorbs: str = "none",
    **convolution: Any,
) -> MaskedBinaryLinear:
    """A masked-binary layer that shares the parameters of `layer`; gate 1.

    Args:
        layer: a float `nn.Linear`.
        kind, mask_rule, sparsity, scale, threshold, estimator, absorbs: as in `layers.quantize_layer`.
        convolution: its options that say nothing to a linear layer: blocks of a mask and planes.

    Raises:
        TypeError: `layer` is no `nn.Linear`, or a subclass that computes something of its own.
        ValueError: an option that is not supported.
    """
    if not is_plain_linear(layer):
        raise TypeError(f"{type(layer).__name__} cannot be quantized as a linear layer; only nn.Linear can.")
    quantizer = weight_quantizer(kind, mask_rule=mask_rule, sparsity=sparsity)
    new = adopt(layer, MaskedBinaryLinear)
    scale = "none" if quantizer.kind in INTEGER_KINDS else scale
    new._quantize(quantizer, scale, threshold, estimator, absorbs, 1)
    return new.train(layer.training)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether it computes what `nn.Linear` does."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def linear_calls(traced: Trace, model: nn.Module) -> dict[str, list[Operation]]:
    """Name of every linear layer of `model`, plain or quantized -> its products, in executed order."""
    found: dict[str, list[Operation]] = {}
    for op in traced.operations:
        if op.name in ("mm", "addmm"):
            module = model.get_submodule(op.module)
            if is_plain_linear(module) or isinstance(module, MaskedBinaryLinear):
                found.setdefault(op.module, []).append(op)
    return found
