"""Convolutions whose weights and inputs go from float to one bit as a gate rises from 0 to 1.

    y = scale * conv(lerp(activation(x), sign(x - threshold), gate), lerp(w / scale, quantize(w), gate)) + bias

The scale stands outside the convolution on purpose. At gate 1 the convolution then adds and subtracts ones, which
float32 does without rounding in any order of summation: its result *is* the integer that the packed layer counts,
and everything after it can be repeated bit for bit. At gate 0 the scale cancels: the layer is the float one.

Latent weight and bias keep the names `weight` and `bias` of the layer that is replaced; added keys are
`scale`, `threshold` and, for a learned mask, `weight_quantizer.factor`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .quantizers import ABSORBABLE, ESTIMATORS, BinaryWeight, MaskedWeight, binarize_activation

_SMALLEST_SCALE = 1e-6  # keeps alpha > 0 (BiSegUNet, Eq. 23)


class QuantizedConvolution(nn.Module):
    """What `MaskedBinaryConv2d` and `MaskedBinaryConvTranspose2d` share; see the module's docstring.

    Attributes:
        weight: latent weight, the float parameter that the optimizer updates.
        scale: `[out_channels]`, alpha of BiSegUNet's Eq. 23, or None.
        threshold: `[in_channels]`; trained where it is a parameter, zero where it is a buffer.
        gate: scalar buffer (not saved: it follows from the training progress), 0 float, 1 quantized.
    """

    weight: Tensor
    bias: Tensor | None
    scale: nn.Parameter | None
    threshold: Tensor
    gate: Tensor
    in_channels: int
    out_channels: int
    groups: int
    output_axis = 0  # axis of `weight` that counts output channels

    def _quantize(
        self,
        quantizer: BinaryWeight | MaskedWeight,
        scale: bool,
        threshold: str,
        estimator: str,
        absorbs: str,
    ) -> None:
        for value, known, name in (
            (threshold, ("zero", "learned"), "threshold"),
            (estimator, ESTIMATORS, "estimator"),
            (absorbs, ABSORBABLE, "absorbs"),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}.")
        self.weight_quantizer = quantizer
        self.estimator, self.absorbs = estimator, absorbs
        like = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.scale = nn.Parameter(torch.ones(self.out_channels, **like)) if scale else None
        zeros = torch.zeros(self.in_channels, **like)
        if threshold == "learned":
            self.threshold = nn.Parameter(zeros)
        else:
            self.register_buffer("threshold", zeros, persistent=False)
        self.register_buffer("gate", torch.ones((), **like), persistent=False)
        self.reset_scale()

    @property
    def kind(self) -> str:
        """`"binary"` or `"masked"`."""
        return self.weight_quantizer.kind

    @property
    def learns_threshold(self) -> bool:
        return isinstance(self.threshold, nn.Parameter)

    @torch.no_grad()
    def reset_scale(self) -> None:
        """Sets each scale to the mean magnitude of the weights that survive the mask: the least-squares fit."""
        if self.scale is None:
            return
        present = self.weight_quantizer(self.weight).abs()
        axes = [axis for axis in range(self.weight.dim()) if axis != self.output_axis]
        total = (self.weight.abs() * present).sum(axes)
        self.scale.copy_((total / present.sum(axes).clamp_min(1)).clamp_min(_SMALLEST_SCALE))

    def effective_scale(self) -> Tensor | None:
        """`[out_channels]`, positive; its gradient fades with the gate, so that it rests in the float phase."""
        if self.scale is None:
            return None
        gated = torch.lerp(self.scale.detach(), self.scale, self.gate.to(self.scale.dtype))
        return gated.abs().clamp_min(_SMALLEST_SCALE)

    def quantized_weight(self) -> Tensor:
        """The weight at gate 1: values in {-1, 0, +1}, shape of `weight`."""
        return self.weight_quantizer(self.weight)

    def binarize(self, x: Tensor) -> Tensor:
        """The layer's input as the convolution sees it, `[N, C, H, W]`."""
        threshold = self.threshold.to(x.dtype).view(1, -1, 1, 1)
        return binarize_activation(x, threshold, self.gate, self.estimator, self.absorbs)

    def _gated_weight(self, scale: Tensor | None) -> Tensor:
        weight = self.weight
        if scale is not None:
            shape = [1] * weight.dim()
            shape[self.output_axis] = -1
            weight = weight / scale.view(shape)
        return torch.lerp(weight, self.quantized_weight(), self.gate.to(weight.dtype))

    def _finish(self, y: Tensor, scale: Tensor | None) -> Tensor:
        # The packed layer repeats these two roundings in this order; keep them apart and in step with it.
        if scale is not None:
            y = y * scale.view(1, -1, 1, 1)
        if self.bias is not None:
            y = y + self.bias.view(1, -1, 1, 1)
        return y

    def extra_repr(self) -> str:
        parts = [super().extra_repr(), self.kind]
        parts += ["scale"] if self.scale is not None else []
        parts += ["threshold"] if self.learns_threshold else []
        parts += [f"absorbs={self.absorbs}"] if self.absorbs != "none" else []
        return ", ".join(parts)


class MaskedBinaryConv2d(QuantizedConvolution, nn.Conv2d):
    """`nn.Conv2d` with masked-binary or binary weights and binary activations."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H', W']`."""
        scale = self.effective_scale()
        y = self._conv_forward(self.binarize(x), self._gated_weight(scale), None)
        return self._finish(y, scale)


class MaskedBinaryConvTranspose2d(QuantizedConvolution, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with masked-binary or binary weights and binary activations."""

    output_axis = 1

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H', W']`; `output_size` as in `nn.ConvTranspose2d`."""
        geometry: list[Any] = [self.stride, self.padding, self.kernel_size]
        output_padding: Any = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(x, output_size, *geometry, 2, self.dilation)  # type: ignore[arg-type]
        scale = self.effective_scale()
        stride, padding, _ = geometry
        y = nn.functional.conv_transpose2d(
            self.binarize(x), self._gated_weight(scale), None, stride, padding, output_padding,
            self.groups, self.dilation,
        )  # fmt: skip
        return self._finish(y, scale)


def quantize_layer(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    kind: str,
    *,
    mask_rule: str = "twn",
    sparsity: float = 0.5,
    scale: bool = True,
    threshold: str = "zero",
    estimator: str = "clipped",
    absorbs: str = "none",
) -> MaskedBinaryConv2d | MaskedBinaryConvTranspose2d:
    """A masked-binary layer that shares the parameters of `layer`; gate 1.

    Args:
        layer: a float convolution with zero padding; groups for `nn.Conv2d` only.
        kind: `"masked"` (weights {-1, 0, +1}) or `"binary"` (weights {-1, +1}).
        mask_rule, sparsity: see `MaskedWeight`.
        scale: learn a positive scale per output channel.
        threshold: `"learned"` or `"zero"`.
        estimator: a name in `quantizers.ESTIMATORS`, for the activations.
        absorbs: see `binarize_activation`.

    Raises:
        TypeError: `layer` is no convolution of these two types.
        ValueError: groups, padding mode or an option that is not supported.
    """
    types = {nn.Conv2d: MaskedBinaryConv2d, nn.ConvTranspose2d: MaskedBinaryConvTranspose2d}
    if type(layer) not in types:
        raise TypeError(f"{type(layer).__name__} cannot be quantized; only Conv2d and ConvTranspose2d can.")
    if (layer.groups != 1 and isinstance(layer, nn.ConvTranspose2d)) or layer.padding_mode != "zeros":
        raise ValueError(
            f"groups={layer.groups}, padding_mode={layer.padding_mode!r}: only zero padding, and groups=1 where "
            "the convolution is transposed, can be quantized; leave this layer float in the plan."
        )
    if kind not in ("masked", "binary"):
        raise ValueError(f"kind={kind!r} is unknown; choose 'masked' or 'binary'.")
    new = types[type(layer)].__new__(types[type(layer)])
    # The float layer's own state, shared: same parameter objects under the same names, hooks included.
    new.__dict__.update({key: value for key, value in layer.__dict__.items()})
    for registry in ("_parameters", "_buffers", "_modules"):
        new.__dict__[registry] = dict(layer.__dict__[registry])
    quantizer = BinaryWeight() if kind == "binary" else MaskedWeight(mask_rule, sparsity)
    new._quantize(quantizer, scale, threshold, estimator, absorbs)
    return new.train(layer.training)
