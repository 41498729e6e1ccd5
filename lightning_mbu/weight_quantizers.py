"""Weight quantizers beyond masked and binary: zeros in whole blocks, and integers of a few bits for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .quantizers import BinaryWeight, MaskedWeight

INTEGER_KINDS = ("int2", "int4", "int8")
KINDS = ("masked", "binary", *INTEGER_KINDS)


class _BlockMaskedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: Tensor, present: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        return torch.where(w >= 0, present, -present)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (w,) = ctx.saved_tensors
        return grad * (w.abs() <= 1), None


class BlockMaskedWeight(nn.Module):
    """sign(w) in the blocks that are present, 0 in the others; gradient 1 where |w| <= 1, else 0.

    A block is `blocks[0]` output channels x `blocks[1]` input channels of one tap. The share `density` of all blocks
    of the layer is present: those of largest mean |w|, chosen anew at every step. A kernel can skip an absent block.
    Absent blocks go on receiving gradients, so they can come back.

    Args:
        blocks: output and input channels of a block, each at least 1; the last block of an axis may be smaller.
        density: share of blocks that are present, in (0, 1].
        output_axis: axis of the weight that counts output channels: 0, or 1 for a transposed convolution.

    Raises:
        ValueError: a block without extent, or a share outside (0, 1].
    """

    kind, precision = "masked", 2

    def __init__(self, blocks: tuple[int, int], density: float, output_axis: int = 0):
        super().__init__()
        if len(blocks) != 2 or min(blocks) < 1:
            raise ValueError(
                f"mask_blocks={blocks} must be two counts of channels, output and input, such as (16, 16)."
            )
        if not 0 < density <= 1:
            raise ValueError(f"block_density={density} must be a share of blocks in (0, 1].")
        self.blocks, self.density, self.output_axis = tuple(blocks), density, output_axis

    def present(self, weight: Tensor) -> Tensor:
        """1 in the blocks that are present, else 0; shape and dtype of `weight` `[O, I, KH, KW]`."""
        magnitude = weight.detach().abs()
        if self.output_axis == 1:
            magnitude = magnitude.transpose(0, 1)
        taps = magnitude.permute(2, 3, 0, 1).flatten(0, 1)
        means = nn.functional.avg_pool2d(
            taps[:, None], self.blocks, ceil_mode=True, count_include_pad=False
        )  # [KH*KW, 1, O / blocks[0], I / blocks[1]]
        count = max(round(self.density * means.numel()), 1)
        chosen = torch.zeros_like(means).flatten()
        chosen[means.flatten().topk(count).indices] = 1
        spread = chosen.view_as(means)[:, 0]
        for axis, extent in ((1, self.blocks[0]), (2, self.blocks[1])):
            spread = spread.repeat_interleave(extent, axis)
        spread = spread[:, : taps.shape[1], : taps.shape[2]]
        mask = spread.unflatten(0, tuple(magnitude.shape[2:])).permute(2, 3, 0, 1)
        return (mask.transpose(0, 1) if self.output_axis == 1 else mask).contiguous()

    def forward(self, weight: Tensor) -> Tensor:
        """`[O, I, KH, KW]` -> same shape and dtype, values in {-1, 0, +1}."""
        return _BlockMaskedSign.apply(weight, self.present(weight))

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, density={self.density}"


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
    """The quantizer of a layer kind; the options are those of the classes above.

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
