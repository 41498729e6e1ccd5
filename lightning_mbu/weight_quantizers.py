"""The weight quantizer of each layer kind; integers of a few bits, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .absent_blocks import BlockMaskedWeight
from .quantizers import BinaryWeight, MaskedWeight

INTEGER_KINDS = ("int2", "int4", "int8")
KINDS = ("masked", "binary", *INTEGER_KINDS)


class IntegerWeight(nn.Module):
    """step * clamp(round(w / step)): signed integers of `bits` bits, one step per output channel.

        step = 2 * mean |w| / sqrt(largest level)

    is where Learned Step Size Quantization starts (arXiv:1902.08153); here it follows the weights instead of being
    learned. Gradient 1 where the value is not clamped, else 0. For comparison (MBU-Net, Table 1 and figure A.3):
    such a layer is trained and measured, but has no packed kernel.

    Args:
        bits: at least 2.
        output_axis: axis of the weight that counts output channels.
    """

    def __init__(self, bits: int, output_axis: int = 0):
        super().__init__()
        if bits < 2:
            raise ValueError(f"bits={bits} leaves no integer but a sign; use the kind 'binary' for one bit.")
        self.precision, self.output_axis = bits, output_axis
        self.lowest, self.highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    @property
    def kind(self) -> str:
        return f"int{self.precision}"

    def forward(self, weight: Tensor) -> Tensor:
        """`[O, I, KH, KW]` -> same shape and dtype: integer multiples of its channel's step."""
        axes = [axis for axis in range(weight.dim()) if axis != self.output_axis]
        mean = weight.detach().abs().mean(axes, keepdim=True)
        step = (2 * mean / self.highest**0.5).clamp_min(torch.finfo(weight.dtype).tiny)
        level = (weight / step).clamp(self.lowest, self.highest)
        return step * (level + (level.round() - level).detach())


WeightQuantizer = BinaryWeight | MaskedWeight | BlockMaskedWeight | IntegerWeight


def weight_quantizer(
    kind: str,
    *,
    mask_rule: str = "twn",
    sparsity: float = 0.5,
    mask_blocks: tuple[int, int] | None = None,
    block_density: float = 0.5,
    output_axis: int = 0,
) -> WeightQuantizer:
    """The quantizer of a layer kind; the options are those of the quantizers.

    Raises:
        ValueError: an unknown kind, or an option out of range.
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind={kind!r} is unknown; choose 'masked' or 'binary', or to compare {', '.join(INTEGER_KINDS)}."
        )
    if kind == "binary":
        return BinaryWeight()
    if kind in INTEGER_KINDS:
        return IntegerWeight(int(kind[3:]), output_axis)
    if mask_blocks is not None:
        return BlockMaskedWeight((mask_blocks[0], mask_blocks[1]), block_density, output_axis)
    return MaskedWeight(mask_rule, sparsity)
