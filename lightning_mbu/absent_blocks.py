"""Zeros in whole blocks, which kernels skip: which blocks are absent, how many in each layer, and from when on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHARES = ("equal", "ranked")
# A layer keeps at least this part of `block_density`: below it, ranking all blocks together can cut a network in two.
_LEAST = 0.25


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

    Attributes:
        share: share of blocks that are present now, a scalar buffer; `share_out` moves it, `density` is where it begins.

    Raises:
        ValueError: a block without extent, or a share outside (0, 1].
    """

    kind, precision = "masked", 2
    share: Tensor

    def __init__(self, blocks: tuple[int, int], density: float, output_axis: int = 0):
        super().__init__()
        if len(blocks) != 2 or min(blocks) < 1:
            raise ValueError(
                f"mask_blocks={blocks} must be two counts of channels, output and input, such as (16, 16)."
            )
        if not 0 < density <= 1:
            raise ValueError(f"block_density={density} must be a share of blocks in (0, 1].")
        self.blocks, self.density, self.output_axis = tuple(blocks), density, output_axis
        self.register_buffer("share", torch.tensor(float(density)))

    def _taps(self, weight: Tensor) -> Tensor:
        """`[KH * KW, O, I]`"""
        oriented = weight.transpose(0, 1) if self.output_axis == 1 else weight
        return oriented.permute(2, 3, 0, 1).flatten(0, 1)

    def means(self, values: Tensor) -> Tensor:
        """Mean of each block of `values` `[O, I, KH, KW]`: `[KH * KW, ceil(O / blocks[0]), ceil(I / blocks[1])]`."""
        taps = self._taps(values)[:, None]
        return nn.functional.avg_pool2d(taps, self.blocks, ceil_mode=True, count_include_pad=False)[:, 0]

    def spread(self, of_blocks: Tensor, weight: Tensor) -> Tensor:
        """One value a block, as from `means` -> the same for each of its weights; shape of `weight`."""
        taps = self._taps(weight)
        for axis, extent in ((1, self.blocks[0]), (2, self.blocks[1])):
            of_blocks = of_blocks.repeat_interleave(extent, axis)
        kernel = weight.shape[2:]
        values = (
            of_blocks[:, : taps.shape[1], : taps.shape[2]].unflatten(0, tuple(kernel)).permute(2, 3, 0, 1)
        )
        return (values.transpose(0, 1) if self.output_axis == 1 else values).contiguous()

    def present(self, weight: Tensor) -> Tensor:
        """1 in the blocks that are present, else 0; shape and dtype of `weight` `[O, I, KH, KW]`."""
        means = self.means(weight.detach().abs())
        count = (self.share.double() * means.numel()).round().clamp_min(1)
        place = means.flatten().argsort(descending=True).argsort().view_as(means)
        return self.spread((place < count).to(weight.dtype), weight)

    def forward(self, weight: Tensor) -> Tensor:
        """`[O, I, KH, KW]` -> same shape and dtype, values in {-1, 0, +1}."""
        return _BlockMaskedSign.apply(weight, self.present(weight))

    def extra_repr(self) -> str:
        return f"blocks={self.blocks}, density={self.density}"


def density_at(progress: float, density: float, ramp: float) -> float:
    """Share of blocks that are present at `progress` in [0, 1]: 1 at the start, `density` from `ramp` on, between them
    a cubic that falls fast first (arXiv:1710.01878, Eq. 1)."""
    left = 1 - progress / ramp if ramp else 0.0
    return density + (1 - density) * max(left, 0.0) ** 3


@torch.no_grad()
def share_out(
    quantizers: Sequence[BlockMaskedWeight],
    weights: Sequence[Tensor],
    macs: Sequence[int],
    density: float,
    rule: str,
) -> None:
    """Sets the share of blocks that each layer keeps.

    `"equal"` gives all layers the same one. `"ranked"` compares blocks of all layers by mean |w| over the mean |w| of
    their layer, and leaves the weakest out until `density` of all multiply-adds are left: layers whose blocks differ
    lose most of them, and expensive layers pay for more than one of a cheap layer.

    Args:
        quantizers, weights, macs: of each layer: the module, its latent weight, its multiply-adds for one image.
        density: share of what is present, in (0, 1].
        rule: one of `SHARES`.
    """
    if rule == "equal" or density == 1:
        for quantizer in quantizers:
            quantizer.share.fill_(density)
        return
    scores = []
    for quantizer, weight in zip(quantizers, weights, strict=True):
        means = quantizer.means(weight.detach().abs()).flatten()
        scores.append(means / means.mean().clamp_min(torch.finfo(means.dtype).tiny))
    costs = torch.cat([torch.full_like(s, m / len(s)) for s, m in zip(scores, macs, strict=True)]).double()
    order = torch.cat(scores).argsort(descending=True)
    inside = costs[order].cumsum(0) <= density * costs.sum() * (1 + 1e-9)
    kept = torch.zeros_like(costs).index_fill_(0, order[inside], 1.0)
    for quantizer, mine in zip(quantizers, kept.split([len(s) for s in scores]), strict=True):
        quantizer.share.copy_(mine.mean().clamp_min(_LEAST * density))


@torch.no_grad()
def pull_blocks_together(quantizer: BlockMaskedWeight, weight: Tensor, strength: float) -> Tensor:
    """Gradient of `strength` times the group lasso over blocks, sum of sqrt(n) ||w_block||_2 (arXiv:1608.03665, Eq. 2):
    blocks that the loss does not hold up fade as a whole."""
    squares = quantizer.means(weight.square())
    size = quantizer.spread(squares.sqrt(), weight)
    return strength * weight / size.clamp_min(torch.finfo(weight.dtype).tiny)
