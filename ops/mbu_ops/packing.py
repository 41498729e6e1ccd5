"""Bits to words and back, in plain torch. For weights, tests and small tensors; activations use ``torch.ops.mbu.pack``.

Bit ``c % 32`` of word ``c // 32`` is channel ``c``; the bits above the last channel are 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORD_BITS = 32


def words_of(channels: int) -> int:
    """Number of 32-bit words that hold ``channels`` bits."""
    return (channels + WORD_BITS - 1) // WORD_BITS


def pack_bits(bits: Tensor) -> Tensor:
    """Packs the last dimension.

    Args:
        bits: bool ``[..., C]``.

    Returns:
        int32 ``[..., ceil(C/32)]``.
    """
    if bits.dtype != torch.bool:
        raise TypeError(
            f"pack_bits: bits is {bits.dtype}; it must be bool (compare first, for example x >= 0)"
        )
    channels = bits.shape[-1]
    words = words_of(channels)
    padded = bits.new_zeros((*bits.shape[:-1], words * WORD_BITS))
    padded[..., :channels] = bits
    # Bytes first: eight times less memory than widening every bit to a word.
    octets = padded.reshape(*bits.shape[:-1], words * 4, 8).to(torch.uint8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    packed = (octets * weights).sum(-1, dtype=torch.uint8).contiguous()
    if packed.numel() == 0:
        return packed.new_zeros((*bits.shape[:-1], words), dtype=torch.int32)
    return packed.view(torch.int32)


def unpack_bits(words: Tensor, channels: int) -> Tensor:
    """The inverse of :func:`pack_bits`.

    Args:
        words: int32 ``[..., ceil(channels/32)]``.
        channels: number of bits to return.

    Returns:
        bool ``[..., channels]``.
    """
    if words.dtype != torch.int32:
        raise TypeError(f"unpack_bits: words is {words.dtype}; it must be int32")
    if words.shape[-1] != words_of(channels):
        raise ValueError(
            f"unpack_bits: channels={channels} needs {words_of(channels)} words, but the last dimension has "
            f"{words.shape[-1]}; pass the channel count that was packed"
        )
    shifts = torch.arange(WORD_BITS, dtype=torch.int32, device=words.device)
    bits = (words.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(-2)[..., :channels].to(torch.bool)


def _parts(channels: int, segments: Sequence[int] | None) -> list[int]:
    parts = [channels] if segments is None else [int(part) for part in segments]
    if any(part < 1 for part in parts) or sum(parts) != channels:
        raise ValueError(
            f"segments={parts} sum to {sum(parts)}, but the weight has {channels} input channels; give the channel "
            "count of every concatenated tensor, each at least 1"
        )
    return parts


def segment_words(segments: Sequence[int]) -> list[int]:
    """Words of each part of a concat of packed tensors; each part starts at a new word."""
    return [words_of(part) for part in segments]


def _own_channels(out_channels: int, channels: int, groups: int) -> Tensor:
    """int64 ``[OC, channels / groups]``: the input channels that each output channel of a grouped layer meets."""
    if groups < 1 or out_channels % groups or channels % groups:
        raise ValueError(
            f"groups={groups} must be at least 1 and divide the {channels} input channels and {out_channels} "
            "output channels"
        )
    own = torch.arange(channels).view(groups, channels // groups)
    return own.repeat_interleave(out_channels // groups, 0)


def pack_weight(weight: Tensor, segments: Sequence[int] | None = None, groups: int = 1) -> Tensor:
    """Packs a masked binary weight into its sign plane and mask plane.

    Args:
        weight: ``[OC, C / groups, KH, KW]``, any dtype, values in {-1, 0, +1}. The weight of a transposed
            convolution is passed with its first two dimensions exchanged: ``weight.transpose(0, 1)``.
        segments: channel counts of the parts when the input is a concat of packed tensors, each padded to whole
            words. ``None``: one part.
        groups: as in ``torch.nn.Conv2d``. The planes hold all C channels, zero outside an output's own group;
            ``tile_weight`` leaves the words of zeros out again.

    Returns:
        int32 ``[2, OC, KH, KW, Cw]``: plane 0 the sign (bit 1 = +1), plane 1 the mask (bit 1 = not zero).

    Raises:
        ValueError: if the weight is not 4-d, holds another value, ``segments`` do not sum to C, or ``groups`` does
            not divide the channels.
    """
    if weight.dim() != 4:
        raise ValueError(f"pack_weight: weight has shape {tuple(weight.shape)}; it must be [OC, C, KH, KW]")
    positive, negative = weight == 1, weight == -1
    if not bool((positive | negative | (weight == 0)).all()):
        raise ValueError("pack_weight: weight holds values other than -1, 0 and +1; quantize it first")
    if groups != 1:
        out_channels, own, *size = weight.shape
        index = _own_channels(out_channels, own * groups, groups)[:, :, None, None].expand(weight.shape)
        spread = weight.new_zeros(out_channels, own * groups, *size)
        return pack_weight(spread.scatter_(1, index.to(weight.device), weight), segments)
    parts = _parts(weight.shape[1], segments)
    planes = torch.stack([positive, positive | negative]).permute(0, 1, 3, 4, 2)
    return torch.cat([pack_bits(part) for part in planes.split(parts, dim=-1)], dim=-1)


def unpack_weight(
    planes: Tensor, channels: int, segments: Sequence[int] | None = None, groups: int = 1
) -> Tensor:
    """The inverse of :func:`pack_weight`.

    Args:
        planes: int32 ``[2, OC, KH, KW, Cw]``.
        channels: input channels C.
        segments, groups: as in :func:`pack_weight`.

    Returns:
        int8 ``[OC, C / groups, KH, KW]`` with values in {-1, 0, +1}.
    """
    if planes.dim() != 5 or planes.shape[0] != 2:
        raise ValueError(
            f"unpack_weight: planes has shape {tuple(planes.shape)}; it must be [2, OC, KH, KW, Cw]"
        )
    parts = _parts(channels, segments)
    sizes = segment_words(parts)
    if sum(sizes) != planes.shape[-1]:
        raise ValueError(
            f"unpack_weight: segments {parts} need {sum(sizes)} words, but planes has {planes.shape[-1]}; "
            "pass the segments that the weight was packed with"
        )
    words = planes.split(sizes, dim=-1)
    bits = torch.cat([unpack_bits(word, part) for word, part in zip(words, parts, strict=True)], dim=-1)
    sign, mask = bits.to(torch.int8)
    weight = ((2 * sign - 1) * mask).permute(0, 3, 1, 2).contiguous()
    if groups == 1:
        return weight
    index = _own_channels(weight.shape[0], channels, groups)[:, :, None, None]
    return weight.gather(1, index.expand(-1, -1, *weight.shape[2:]).to(weight.device))
