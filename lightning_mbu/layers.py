"""Convolutions whose weights and inputs go from float to one bit as a gate rises from 0 to 1.

    y = scale * conv(lerp(activation(x), sign(x - threshold), gate), lerp(w / scale, quantize(w), gate)) + bias

The scale stands outside the convolution on purpose. At gate 1 the convolution then adds and subtracts ones, which
float32 does without rounding in any order of summation: its result *is* the integer that the packed layer counts,
and everything after it can be repeated bit for bit. At gate 0 the scale cancels: the layer is the float one.
A layer in training mode needs no bit twice: its scale goes into the weight, which has fewer entries than its output.

With a thermometer code of T planes (T thresholds per channel) the convolution reads T * C one-bit channels, plane
after plane, and has weights of its own for each; in the float phase the first plane carries the activation and the
others are 0.

Latent weight and bias keep the names `weight` and `bias` of the layer that is replaced; added keys are
`scale`, `threshold`, `plane_weight` (planes after the first) and, for a learned mask, `weight_quantizer.factor`.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from .plain import adopt, own_forward
from .quantizers import ABSORBABLE, ESTIMATORS, binarize_activation, settled
from .residual import BridgedBatchNorm2d
from .weight_quantizers import INTEGER_KINDS, WeightQuantizer, weight_quantizer

_SMALLEST_SCALE = 1e-6  # keeps alpha > 0 (BiSegUNet, Eq. 23)
SCALES = ("none", "learned", "analytic")


class QuantizedConvolution(nn.Module):
    """What `MaskedBinaryConv2d` and `MaskedBinaryConvTranspose2d` share; see the module's docstring.

    Attributes:
        weight: latent weight, the float parameter that the optimizer updates.
        scale: `[out_channels]`, alpha of BiSegUNet's Eq. 23, or None.
        threshold: `[planes * in_channels]`; trained where it is a parameter, zero where it is a buffer.
        planes: thresholds per channel, T of the thermometer code.
        plane_weight: latent weight of the planes after the first; `weight`'s shape with (T - 1) * C input channels.
        gate: scalar, no buffer lest averages of a model mix it, not saved; 0 float, 1 quantized activations.
        weight_gate: scalar, likewise: factor on `gate` for the weights, which may follow later.
        sharpness: scalar, likewise, of the annealed estimator.
        bridge: the batch norm behind the layer that computes inside it (`residual`), or None.
    """

    weight: Tensor
    bias: Tensor | None
    scale: nn.Parameter | None
    scale_rule: str
    threshold: Tensor
    planes: int
    plane_weight: nn.Parameter | None
    gate: Tensor
    weight_gate: Tensor
    sharpness: Tensor
    in_channels: int
    out_channels: int
    groups: int
    output_axis = 0  # axis of `weight` that counts output channels

    def _quantize(
        self,
        quantizer: WeightQuantizer,
        scale: bool | str,
        threshold: str,
        estimator: str,
        absorbs: str,
        planes: int,
    ) -> None:
        scale = {True: "learned", False: "none"}.get(scale, scale)  # type: ignore[call-overload]
        for value, known, name in (
            (threshold, ("zero", "learned"), "threshold"),
            (estimator, ESTIMATORS, "estimator"),
            (absorbs, ABSORBABLE, "absorbs"),
            (scale, SCALES, "scale"),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}.")
        if planes < 1 or (planes > 1 and (threshold != "learned" or self.groups > 1)):
            raise ValueError(
                f"planes={planes} with threshold={threshold!r}, groups={self.groups}: planes must be at least 1; more "
                "than one needs thresholds that differ and a single group. Use threshold='learned', groups=1."
            )
        self.weight_quantizer = quantizer
        self.estimator, self.absorbs, self.scale_rule, self.planes = estimator, absorbs, str(scale), planes
        self._bridge: tuple[BridgedBatchNorm2d, ...] = ()  # a tuple: it is another module's child
        like = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.scale = nn.Parameter(torch.ones(self.out_channels, **like)) if scale == "learned" else None
        self.plane_weight = nn.Parameter(self._further_planes()) if planes > 1 else None
        zeros = torch.zeros(planes * self.in_channels, **like)
        if threshold == "learned":
            self.threshold = nn.Parameter(zeros)
        else:
            self.register_buffer("threshold", zeros, persistent=False)
        self.gate, self.weight_gate, self.sharpness = (torch.ones((), **like) for _ in range(3))
        if planes > 1:
            self.spread_thresholds(torch.zeros_like(zeros[: self.in_channels]), 1.0)
        self.reset_weights()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.gate, self.weight_gate, self.sharpness = map(fn, (self.gate, self.weight_gate, self.sharpness))
        return super()._apply(fn, recurse)

    @property
    def kind(self) -> str:
        """`"binary"` or `"masked"`; `"int2"`, `"int4"` or `"int8"` for comparison only."""
        return self.weight_quantizer.kind

    @property
    def input_axis(self) -> int:
        """Axis of `weight` that counts input channels."""
        return 1 - self.output_axis

    @property
    def bridge(self) -> BridgedBatchNorm2d | None:
        return self._bridge[0] if self._bridge else None

    def set_bridge(self, norm: BridgedBatchNorm2d) -> None:
        """Lets the layer run the batch norm that follows it, with its activation and shortcut."""
        self._bridge = (norm,)

    @property
    def learns_threshold(self) -> bool:
        return isinstance(self.threshold, nn.Parameter)

    def _further_planes(self) -> Tensor:
        return self.weight.detach().repeat(
            [self.planes - 1 if axis == self.input_axis else 1 for axis in range(self.weight.dim())]
        )

    @torch.no_grad()
    def reset_weights(self) -> None:
        """Fits to `weight` what stands beside it: further planes begin as copies, so that T planes of signs add up
        to T + 1 levels of the activation; each scale as the least-squares fit, see `_fitted_scale`."""
        if self.plane_weight is not None:
            self.plane_weight.copy_(self._further_planes())
        if self.scale is not None:
            self.scale.copy_(self._fitted_scale())

    @torch.no_grad()
    def spread_thresholds(self, mean: Tensor, deviation: Tensor | float) -> None:
        """Puts the T thresholds of each channel where they cut a normal distribution into T + 1 equal shares.

        Args:
            mean, deviation: of the layer's input, `[C]`.
        """
        for plane, part in enumerate(self.threshold.view(self.planes, -1)):
            part.copy_(mean + NormalDist().inv_cdf((plane + 1) / (self.planes + 1)) * deviation)

    @torch.no_grad()
    def _fitted_scale(self) -> Tensor:
        """`[out_channels]`: mean magnitude of the weights that survive the mask (XNOR-Net, arXiv:1603.05279, Eq. 6;
        TWN, arXiv:1605.04711, Eq. 5)."""
        weight = self.latent_weight()
        present = (self.weight_quantizer(weight) != 0).to(weight.dtype)
        axes = [axis for axis in range(weight.dim()) if axis != self.output_axis]
        fitted = (weight.abs() * present).sum(axes) / present.sum(axes).clamp_min(1)
        return fitted.clamp_min(_SMALLEST_SCALE)

    def effective_scale(self) -> Tensor | None:
        """`[out_channels]`, positive; its gradient fades with the gate, so that it rests in the float phase."""
        if self.scale_rule == "analytic":
            return self._fitted_scale()
        if self.scale is None:
            return None
        gate = (self.gate * self.weight_gate).to(self.scale.dtype)
        return torch.lerp(self.scale.detach(), self.scale, gate).abs().clamp_min(_SMALLEST_SCALE)

    def latent_weight(self) -> Tensor:
        """All latent weights, those of further planes behind `weight` along the axis of input channels."""
        if self.plane_weight is None:
            return self.weight
        return torch.cat([self.weight, self.plane_weight], self.input_axis)

    def quantized_weight(self) -> Tensor:
        """The weight at gate 1: values in {-1, 0, +1}, shape of `latent_weight()`."""
        return self.weight_quantizer(self.latent_weight())

    def as_images(self, x: Tensor) -> Tensor:
        return x  # `[N, C, H, W]`; other layers bring their input into this shape

    def binarize(self, x: Tensor) -> Tensor:
        """The layer's input as the convolution sees it, `[N, planes * C, H, W]`."""
        planes = []
        for plane, part in enumerate(self.threshold.to(x.dtype).view(self.planes, 1, -1, 1, 1)):
            absorbs = "everything" if plane else self.absorbs
            planes.append(binarize_activation(x, part, self.gate, self.estimator, absorbs, self.sharpness))
        return planes[0] if self.planes == 1 else torch.cat(planes, 1)

    def _gated_weight(self, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight, and the scale that is left to apply behind it."""
        weight = self.latent_weight()
        shape = [-1 if axis == self.output_axis else 1 for axis in range(weight.dim())]
        gate = (self.gate * self.weight_gate).to(weight.dtype)
        gated = self.weight_quantizer(weight)
        if not settled(gate, weight):
            gated = torch.lerp(weight if scale is None else weight / scale.view(shape), gated, gate)
        if scale is None or not self.training or torch.is_autocast_enabled(weight.device.type):
            return gated, scale
        return gated * scale.view(shape), None

    def _finish(self, y: Tensor, x: Tensor, scale: Tensor | None) -> Tensor:
        # The packed layer repeats these two roundings in this order; keep them apart and in step with it.
        if scale is not None:
            y = y * scale.view(1, -1, 1, 1)
        if self.bias is not None:
            y = y + self.bias.view(1, -1, 1, 1)
        gate = None if settled(self.gate, y) else self.gate
        return y if self.bridge is None else self.bridge.bridge(y, x, gate)

    def extra_repr(self) -> str:
        parts = [super().extra_repr(), self.kind]
        parts += ["scale"] if self.scale is not None else []
        parts += [f"planes={self.planes}"] if self.planes > 1 else []
        parts += ["threshold"] if self.learns_threshold else []
        parts += [f"absorbs={self.absorbs}"] if self.absorbs != "none" else []
        return ", ".join(parts)


class MaskedBinaryConv2d(QuantizedConvolution, nn.Conv2d):
    """`nn.Conv2d` with masked-binary or binary weights and binary activations."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H', W']`."""
        weight, scale = self._gated_weight(self.effective_scale())
        y = self._conv_forward(self.binarize(x), weight, None)
        return self._finish(y, x, scale)


class MaskedBinaryConvTranspose2d(QuantizedConvolution, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with masked-binary or binary weights and binary activations."""

    output_axis = 1

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[N, in_channels, H, W]` -> `[N, out_channels, H', W']`; `output_size` as in `nn.ConvTranspose2d`."""
        geometry: list[Any] = [self.stride, self.padding, self.kernel_size]
        output_padding: Any = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(x, output_size, *geometry, 2, self.dilation)  # type: ignore[arg-type]
        stride, padding, _ = geometry
        weight, scale = self._gated_weight(self.effective_scale())
        y = nn.functional.conv_transpose2d(
            self.binarize(x), weight, None, stride, padding, output_padding, self.groups, self.dilation
        )
        return self._finish(y, x, scale)


def quantize_layer(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    kind: str,
    *,
    mask_rule: str = "twn",
    sparsity: float = 0.5,
    mask_blocks: tuple[int, int] | None = None,
    block_density: float = 0.5,
    scale: bool | str = True,
    threshold: str = "zero",
    estimator: str = "clipped",
    absorbs: str = "none",
    planes: int = 1,
) -> MaskedBinaryConv2d | MaskedBinaryConvTranspose2d:
    """A masked-binary layer that shares the parameters of `layer`; gate 1.

    Args:
        layer: a float convolution with zero padding; groups for `nn.Conv2d` only.
        kind: `"masked"` (weights {-1, 0, +1}), `"binary"` (weights {-1, +1}) or, to compare, `"int2"` and so on.
        mask_rule, sparsity: see `MaskedWeight`.
        mask_blocks, block_density: see `BlockMaskedWeight`, which takes the place of `mask_rule`.
        scale: `"learned"` (True): a positive scale per output channel; `"analytic"`: the mean magnitude of its
            weights, at every step; `"none"` (False).
        threshold: `"learned"` or `"zero"`.
        estimator: a name in `quantizers.ESTIMATORS`, for the activations.
        absorbs: see `binarize_activation`.
        planes: thresholds per input channel; more than one makes a thermometer code.

    Raises:
        TypeError: `layer` is no convolution of these two types.
        ValueError: groups, padding mode or an option that is not supported.
    """
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or own_forward(layer):
        raise TypeError(f"{type(layer).__name__} cannot be quantized; only Conv2d and ConvTranspose2d can.")
    if (layer.groups != 1 and isinstance(layer, nn.ConvTranspose2d)) or layer.padding_mode != "zeros":
        raise ValueError(
            f"groups={layer.groups}, padding_mode={layer.padding_mode!r}: only zero padding, and groups=1 where the "
            "convolution is transposed, can be quantized; leave this layer float in the plan."
        )
    kind_of = MaskedBinaryConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else MaskedBinaryConv2d
    quantizer = weight_quantizer(
        kind, mask_rule=mask_rule, sparsity=sparsity, mask_blocks=mask_blocks, block_density=block_density,
        output_axis=kind_of.output_axis,
    )  # fmt: skip
    new = adopt(layer, kind_of)
    scale = "none" if quantizer.kind in INTEGER_KINDS else scale  # integers carry their own step
    new._quantize(quantizer, scale, threshold, estimator, absorbs, planes)
    return new.train(layer.training)
