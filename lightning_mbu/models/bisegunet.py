"""BiSegUNet (DOI 10.1109/ACCESS.2025.3646927), ready to become one-bit. w is the width, 128 in Table 1.

    gateway   three streams of the image (float)                    resolution 1      w
    encoder1  conv 3x3 stride 2            -> capacity1             1/2               2w
    encoder2                               -> capacity2             1/4               4w
    encoder3                               -> capacity3             1/8               8w
    encoder4                               -> capacity4             1/16              16w
    aspp      dilations 1, 6, 12, 18 of capacity4                   1/16              8w
    anp       self-attention (float)                                1/16              8w
    bottom    H(anp, capacity4)                                     1/16              8w
    decoder3  U(bottom), H(encoder3, capacity3)                     1/8               8w
    decoder2  U(decoder3), H(encoder2, capacity2)                   1/4               4w
    decoder1  U(decoder2), H(encoder1, capacity1)                   1/2               2w
    output    U(decoder1)                  -> capacity0 (fifth)     1                 w
    head      conv 1x1 (float)                                      1                 classes

Where the text contradicts itself, docs/decisions/0011-bisegunet.md says what was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .aspp import ASPP
from .attention import ANP
from .capacity_block import ATTENTIONS, BRANCHES, CapacityBlock, MultiScaleBlock
from .conv_unit import ConvUnit
from .decoder import DecoderStage, Fusion, Upsampling
from .gateway import MultiStreamGateway

_LEVELS = 4


class BiSegUNet(nn.Module):
    """The network of the paper.

    Args:
        in_channels: channels of the image.
        classes: channels of the output logits.
        width: channels of the gateway, w above; a multiple of 4 * groups.
        stem_stride: 2 halves the image in the gateway, and every resolution above with it.
        capacity_blocks: how many, the deepest first (Table 9): 4 are those of all skips, 5 adds the one at the
            decoder's output. Or where, as the numbers above: `[1, 4]` has capacity1 and capacity4.
        branches: which branches the blocks have (Table 8): of `"binary"`, `"dilated"`, `"grouped"`.
        channel_attention: `"capacity"` is the paper's block; `"none"` leaves out its attention (figure 8b); `"se"`
            and `"cbam"` replace it by ASPP with that attention (Table 7).
        groups: groups of the grouped and of the dilated convolutions.
        reduction: of the hidden layer in channel attention.
        shortcuts: real-valued shortcuts around every convolution behind the gateway (Bi-Real Net, arXiv:1808.00278);
            not in the paper. They keep accuracy and cost memory traffic, most of it where maps are large: `[3, 4]` has
            them at levels 3 and 4 alone, numbered as above (`aspp` and `bottom` belong to 4, `output` to 0).

    Raises:
        ValueError: an option out of range, or a width that the groups do not divide.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 19,
        width: int = 48,
        stem_stride: int = 1,
        capacity_blocks: int | Sequence[int] = 4,
        branches: Sequence[str] = BRANCHES,
        channel_attention: str = "capacity",
        groups: int = 4,
        reduction: int = 4,
        shortcuts: bool | Sequence[int] = False,
    ):
        super().__init__()
        _check(in_channels, classes, width, stem_stride, capacity_blocks, branches, channel_attention, groups)
        with_shortcut = _with_shortcut(shortcuts)
        w = width
        channels = [w * 2**level for level in range(_LEVELS + 1)]

        places = _places(capacity_blocks)

        def refine(level: int) -> nn.Module | None:
            if level not in places:
                return None
            if channel_attention in ("se", "cbam"):
                return MultiScaleBlock(channels[level], channel_attention, reduction)
            attention = channel_attention == "capacity"
            return CapacityBlock(channels[level], branches, groups, attention, reduction)

        self.stem_stride = stem_stride
        self.gateway = MultiStreamGateway(in_channels, w, stem_stride)
        self.encoder1, self.encoder2, self.encoder3, self.encoder4 = (
            ConvUnit(channels[level], channels[level + 1], stride=2) for level in range(_LEVELS)
        )
        self.capacity0, self.capacity1, self.capacity2, self.capacity3, self.capacity4 = (
            refine(level) for level in range(_LEVELS + 1)
        )
        refined = [0 if block is None else int(block.out_channels) for block in self._blocks()]  # type: ignore[arg-type]
        top = refined[4] or channels[4]
        self.aspp = ASPP(top, channels[3])
        self.anp = ANP(channels[3], channels[2], channels[3])
        self.bottom = Fusion(channels[3] + top, channels[3], kernel=3)
        self.decoder3 = DecoderStage(channels[3], channels[3] + refined[3], channels[3])
        self.decoder2 = DecoderStage(channels[3], channels[2] + refined[2], channels[2])
        self.decoder1 = DecoderStage(channels[2], channels[1] + refined[1], channels[1])
        # Without a fifth block the head follows at once, and that commutes with upsampling: it comes first.
        self.output = Upsampling(channels[1], w, 2 * stem_stride if self.capacity0 is not None else 1)
        self.head = nn.Conv2d(refined[0] or w, classes, 1)
        for name, unit in self.named_modules():
            if isinstance(unit, ConvUnit) and _level(name) in with_shortcut:
                unit.shortcut = unit.can_have_shortcut

    def _blocks(self) -> list[nn.Module | None]:
        return [self.capacity0, self.capacity1, self.capacity2, self.capacity3, self.capacity4]

    def forward(self, x: Tensor) -> Tensor:
        """Image `[N, in_channels, H, W]` -> logits `[N, classes, H, W]`; H, W multiples of 16 * stem_stride.

        Raises:
            ValueError: H or W is not such a multiple.
        """
        height, width = x.shape[-2:]
        multiple = 2**_LEVELS * self.stem_stride
        if not torch.compiler.is_compiling() and (height % multiple or width % multiple):
            padded = [-(-size // multiple) * multiple for size in (height, width)]
            raise ValueError(
                f"the input is {height}x{width}; height and width must be multiples of {multiple}. "
                f"Pad the images to {padded[0]}x{padded[1]}."
            )
        skip1, f1 = _skip(self.encoder1(self.gateway(x)), self.capacity1)  # Eq. 2, then 3-10
        skip2, f2 = _skip(self.encoder2(f1), self.capacity2)
        skip3, f3 = _skip(self.encoder3(f2), self.capacity3)
        (*_, top), _ = _skip(self.encoder4(f3), self.capacity4)
        y = self.bottom(self.anp(self.aspp(top)), top)  # Eq. 11-14, then 15
        y = self.decoder3(y, *skip3)  # Eq. 16
        y = self.decoder2(y, *skip2)
        y = self.decoder1(y, *skip1)
        y = self.output(y)
        if self.capacity0 is not None:
            return self.head(self.capacity0(y))  # Eq. 17
        return interpolate(self.head(y), scale_factor=2.0 * self.stem_stride, mode="bilinear")


def _skip(f: Tensor, block: nn.Module | None) -> tuple[tuple[Tensor, ...], Tensor]:
    """F_l -> what the decoder reads of level l, (F_l, F_att^l) or (F_l,), and F_l itself."""
    return ((f,) if block is None else (f, block(f))), f


def _places(capacity_blocks: int | Sequence[int]) -> Sequence[int]:
    """Levels that have a block; a count starts at the deepest and ends at 0, the decoder's output."""
    if isinstance(capacity_blocks, int):
        return range(_LEVELS, _LEVELS - capacity_blocks, -1)
    return capacity_blocks


def _with_shortcut(shortcuts: bool | Sequence[int]) -> Sequence[int]:
    """Levels whose convolutions have shortcuts."""
    levels = range(_LEVELS + 1)
    if isinstance(shortcuts, bool):
        return levels if shortcuts else ()
    if not set(shortcuts) <= set(levels):
        raise ValueError(
            f"shortcuts={list(shortcuts)} must be True, False, or levels from 0 (the output) to {_LEVELS} (the deepest)."
        )
    return shortcuts


def _level(name: str) -> int | None:
    """Level that a module computes: "encoder2.conv" -> 2; None for the gateway."""
    part = name.partition(".")[0]
    others = {"gateway": None, "aspp": _LEVELS, "bottom": _LEVELS, "output": 0}
    return others[part] if part in others else int(part[-1])


def _check(
    in_channels: int,
    classes: int,
    width: int,
    stem_stride: int,
    capacity_blocks: int | Sequence[int],
    branches: Sequence[str],
    channel_attention: str,
    groups: int,
) -> None:
    if min(in_channels, classes, groups) < 1 or stem_stride not in (1, 2):
        raise ValueError(
            f"in_channels={in_channels}, classes={classes} and groups={groups} must be at least 1, and "
            f"stem_stride={stem_stride} must be 1 or 2."
        )
    if width < 1 or width % (4 * groups):
        raise ValueError(
            f"width={width} must be a multiple of 4 * groups = {4 * groups}: each path of a capacity block has a "
            f"quarter of the channels, in {groups} groups. The nearest is {max(round(width / groups / 4), 1) * groups * 4}."
        )
    places = _places(capacity_blocks)
    if not set(places) <= set(range(_LEVELS + 1)) or len(set(places)) < len(places):
        raise ValueError(
            f"capacity_blocks={capacity_blocks} must be 0 to {_LEVELS} (all skips) or {_LEVELS + 1} (the decoder's output "
            f"too), or levels from 0 (the output) to {_LEVELS} (the deepest), each once, as [1, 4]."
        )
    unknown = [name for name in branches if name not in BRANCHES]
    if unknown or not branches or len(set(branches)) < len(branches):
        raise ValueError(
            f"branches={list(branches)} must name one or more of {', '.join(BRANCHES)}, each once."
        )
    if channel_attention not in ATTENTIONS:
        raise ValueError(
            f"channel_attention={channel_attention!r} is unknown; choose one of {', '.join(ATTENTIONS)}."
        )


def bisegunet_512(classes: int = 19, in_channels: int = 3) -> BiSegUNet:
    """The size that the paper runs at 512x1024 (Table 3); how close: docs/results/bisegunet.md."""
    return BiSegUNet(in_channels, classes, width=48)


def bisegunet_1024(classes: int = 19, in_channels: int = 3) -> BiSegUNet:
    """The size that the paper runs at 1024x2048 (Table 3); how close: docs/results/bisegunet.md."""
    return BiSegUNet(in_channels, classes, width=48, stem_stride=2, capacity_blocks=5, groups=2)
