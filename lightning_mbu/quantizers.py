"""Quantizers: float tensor -> few levels, each with its formula, its gradient and its paper.

Pure functions of tensors. The `gate` (0 float, 1 quantized) is a tensor in every formula, so that one graph serves
all phases of training: no recompilation, no parameter that is unused in some phase.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


def _sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, in one pass; `torch.where` is slow on a CPU where both branches are scalars.

    x holds no negative zero, whose sign `copysign` would take.
    """
    if torch.compiler.is_compiling():
        return (x >= 0).to(x.dtype) * 2 - 1
    return torch.copysign(x.new_ones(()), x)


# Straight-through estimators: the derivative that stands in for that of sign(x), as a factor of the gradient.
# Each takes x and the sharpness, a scalar that only the annealed one reads.


def clipped(x: Tensor, sharpness: Tensor | float = 1.0) -> Tensor:
    """1 where |x| <= 1, else 0 (BinaryConnect / BNN, arXiv:1602.02830)."""
    return (x.abs() <= 1).to(x.dtype)


def approx_sign(x: Tensor, sharpness: Tensor | float = 1.0) -> Tensor:
    """2 - 2|x| where |x| <= 1, else 0: the slope of a quadratic sign (Bi-Real Net, arXiv:1808.00278)."""
    return x.abs().mul_(-2).add_(2).clamp_min_(0)


def tanh_slope(x: Tensor, sharpness: Tensor | float = 1.0) -> Tensor:
    """1 - tanh(x)^2: a smooth bump that never reaches 0; `annealed` at sharpness 1 (IR-Net, arXiv:1909.10788)."""
    return 1 - torch.tanh(x).square_()


def annealed(x: Tensor, sharpness: Tensor | float = 1.0) -> Tensor:
    """k * t * (1 - tanh(t * x)^2) with t = sharpness and k = max(1 / t, 1) (IR-Net, arXiv:1909.10788, Eq. 9-11).

    Flat and wide while t is small, so that every weight keeps learning; close to the step that it stands for when
    t is large. `schedule.sharpness` raises t over the run.
    """
    sharpness = torch.as_tensor(sharpness, dtype=x.dtype, device=x.device)
    return (1 - torch.tanh(sharpness * x).square_()) * sharpness.clamp_min(1)


ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "clipped": clipped,
    "approx_sign": approx_sign,
    "tanh": tanh_slope,
    "annealed": annealed,
}

# Activations that sign() makes superfluous: what each computes in the float phase, and its derivative.
# All are 0 at 0 and monotone, so sign(activation(x)) carries no more than sign(x).
_ABSORBABLE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda x: x, torch.ones_like),
    "relu": (torch.relu, lambda x: (x > 0).to(x.dtype)),
    "relu6": (nn.functional.relu6, lambda x: ((x > 0) & (x < 6)).to(x.dtype)),
}
ABSORBABLE = tuple(_ABSORBABLE)
# The further planes of a thermometer code have no counterpart in the float phase.
_ABSORBABLE["everything"] = (torch.zeros_like, torch.zeros_like)


def settled(gate: Tensor, x: Tensor) -> bool:
    """Whether the float branch can be left out, which saves several passes over every activation.
    On an accelerator the question would cost a synchronization, and in a compiled graph a recompilation."""
    eager = not torch.compiler.is_compiling() and not isinstance(x, FakeTensor)
    return eager and gate.device.type == "cpu" and bool(gate == 1)


def _through(grad: Tensor, x: Tensor, estimator: str, sharpness: Tensor | float = 1.0) -> Tensor:
    """`grad * estimator(x)`."""
    if estimator != "clipped":
        return ESTIMATORS[estimator](x, sharpness).mul_(grad)
    # One pass. hardtanh's interval is open: up to the next number behind 1 is up to 1 and with it.
    bound = 1 + torch.finfo(x.dtype).eps
    return torch.ops.aten.hardtanh_backward(grad, x, -bound, bound)


class _GatedSign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, threshold: Tensor, gate: Tensor, sharpness: Tensor, estimator: str, absorbs: str
    ) -> Tensor:
        ctx.estimator, ctx.absorbs, ctx.settled = estimator, absorbs, settled(gate, x)
        distance = x + (0.0 - threshold)  # x - threshold, but never -0
        ctx.save_for_backward(None if ctx.settled else x, distance, gate, sharpness)
        quantized = _sign(distance)
        if ctx.settled:
            return quantized
        return torch.lerp(_ABSORBABLE[absorbs][0](x), quantized, gate.to(x.dtype))

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, distance, gate, sharpness = ctx.saved_tensors
        quantized = _through(grad, distance, ctx.estimator, sharpness)
        if not ctx.settled:
            quantized = quantized * gate.to(grad.dtype)
        grad_threshold = None
        if ctx.needs_input_grad[1]:
            grad_threshold = -quantized.sum((0, 2, 3), keepdim=True)
        if ctx.settled:
            return quantized, grad_threshold, None, None, None, None
        through = grad * (1 - gate.to(x.dtype))
        grad_x = torch.addcmul(quantized, through, _ABSORBABLE[ctx.absorbs][1](x))
        return grad_x, grad_threshold, None, None, None, None


INT8_STEPS = 16  # of an int8 stream, in 1


class _Bfloat16Stream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return gradients[0]


class _Int8Stream(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        inside = x.clamp(-128 / INT8_STEPS, 127 / INT8_STEPS)
        ctx.save_for_backward(inside == x)
        return (inside * INT8_STEPS).round().to(torch.int8).float() * (1 / INT8_STEPS)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return gradients[0] * ctx.saved_tensors[0]


_STREAMS = {"bfloat16": _Bfloat16Stream, "int8": _Int8Stream}
STREAM_DTYPES = ("float32", *_STREAMS)


def round_stream(x: Tensor, dtype: str = "bfloat16") -> Tensor:
    """`x` as a packed network stores it in `dtype`, one of `STREAM_DTYPES`.

    `"bfloat16"`: rounded to nearest, ties to even; gradient: identity (STE). `"int8"`: to the nearest sixteenth, ties
    to even, within [-8, 127/16]; gradient: identity inside that range, 0 outside. Both are simulated quantization
    (arXiv:1712.05877, section 3).
    """
    return _STREAMS[dtype].apply(x) if dtype in _STREAMS else x  # type: ignore[return-value]


def binarize_activation(
    x: Tensor,
    threshold: Tensor,
    gate: Tensor,
    estimator: str = "clipped",
    absorbs: str = "none",
    sharpness: Tensor | float = 1.0,
) -> Tensor:
    """lerp(activation(x), sign(x - threshold), gate), with sign(0) = +1.

    Gradient: `gate * STE(x - threshold) + (1 - gate) * activation'(x)`; that of the threshold is the negative of
    the first part, summed over its channel (ReActNet's RSign, arXiv:2003.03488).

    Args:
        x: `[N, C, H, W]`.
        threshold: `[1, C, 1, 1]`.
        gate: scalar tensor in [0, 1].
        estimator: a name in `ESTIMATORS`.
        absorbs: the activation that the binarizer replaces, a name in `ABSORBABLE`: it acts in the float phase
            and fades as the gate rises. `"everything"`: 0 in the float phase.
        sharpness: scalar tensor, for the estimator `"annealed"`.
    """
    return _GatedSign.apply(
        x, threshold, gate, torch.as_tensor(sharpness, device=x.device), estimator, absorbs
    )


class _BinarySign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        return _sign(w + 0.0)  # never -0

    @staticmethod
    def backward(ctx, grad: Tensor):
        (w,) = ctx.saved_tensors
        return _through(grad, w, "clipped")


class _MaskedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: Tensor, magnitude: Tensor, delta: Tensor, window: Tensor) -> Tensor:
        ctx.save_for_backward(w, delta, window)
        return torch.sign(w) * (magnitude > delta)

    @staticmethod
    def backward(ctx, grad: Tensor):
        w, delta, window = ctx.saved_tensors
        grad_delta = None
        if ctx.needs_input_grad[2]:
            # Raising delta removes sign(w) where |w| passes it; the step is read as a ramp `window` wide.
            near = (w.abs() - delta).abs() <= window / 2
            grad_delta = -(grad * torch.sign(w) * near).sum() / window
        return _through(grad, w, "clipped"), None, grad_delta, None


class BinaryWeight(nn.Module):
    """sign(w) (BiSegUNet, Eq. 22), with sign(0) = +1; gradient 1 where |w| <= 1, else 0 (arXiv:1602.02830)."""

    kind, precision = "binary", 1

    def forward(self, weight: Tensor) -> Tensor:
        """Any shape -> same shape and dtype, values in {-1, +1}."""
        return _BinarySign.apply(weight)


class MaskedWeight(nn.Module):
    """sign(w) where |w| > delta, else 0; gradient 1 where |w| <= 1, else 0.

    delta, for the whole layer, by `rule`:
        "twn":       0.7 * mean |w| (Ternary Weight Networks, arXiv:1605.04711)
        "learned":   |factor| * mean |w|, `factor` trained from 0.7 (a threshold that the layer learns, as in STR,
                     arXiv:2002.03231)
        "sparsity":  the value below which the share `sparsity` of all |w| lies (Trained Ternary Quantization,
                     arXiv:1612.01064, the variant of constant sparsity)

    Args:
        rule: one of the three.
        sparsity: share of zeros in [0, 1), for rule "sparsity" only.

    Raises:
        ValueError: unknown rule, or a share outside [0, 1).
    """

    kind, precision = "masked", 2
    rules = ("twn", "learned", "sparsity")

    def __init__(self, rule: str = "twn", sparsity: float = 0.5):
        super().__init__()
        if rule not in self.rules:
            raise ValueError(f"mask rule {rule!r} is unknown; choose one of {', '.join(self.rules)}.")
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity={sparsity} must be a share of zeros in [0, 1).")
        self.rule, self.sparsity = rule, sparsity
        if rule == "learned":
            self.factor = nn.Parameter(torch.tensor(0.7))

    def _delta(self, magnitude: Tensor, mean: Tensor) -> Tensor:
        """The masking threshold, a scalar tensor."""
        if self.rule == "sparsity":
            zeros = int(self.sparsity * magnitude.numel())
            return magnitude.flatten().kthvalue(zeros).values if zeros else magnitude.new_tensor(-1.0)
        return self.factor.abs() * mean if self.rule == "learned" else 0.7 * mean

    def forward(self, weight: Tensor) -> Tensor:
        """Any shape -> same shape and dtype, values in {-1, 0, +1}."""
        magnitude = weight.detach().abs()
        mean = magnitude.mean()
        window = mean.clamp_min(torch.finfo(weight.dtype).tiny)
        return _MaskedSign.apply(weight, magnitude, self._delta(magnitude, mean), window)

    def extra_repr(self) -> str:
        return self.rule if self.rule != "sparsity" else f"sparsity={self.sparsity}"
