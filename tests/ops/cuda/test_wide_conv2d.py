"""Convolutions of many channels on main loops of CUTLASS, run from their PTX, against the reference."""

from __future__ import annotations

import pytest
from emulator import build
from emulator.cases import Conv, Problem
from emulator.checks import check_bits, check_stream

KERNELS = [k.name for k in build.kernels() if k.file in build.GENERATED_FILES and "wide_conv2d" in k.name]
# Inputs fill whole stages of 512 bits. Of the weights few enough for an emulator: output channels are what a tile
# multiplies anyway, so the last ones are missing; pixels of the second tile of 128 begin in the middle of a row.
LAYERS = {
    "3x3": Conv((5, 4), (512,), 40),
    "several tiles, ring of -1": Conv(
        (10, 13), (512,), 65, kernel=(1, 2), padding=(0, 1), pad_value=-1, planes=2
    ),
    "stride and dilation": Conv(
        (7, 9), (512,), 33, kernel=(2, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 3), batch=2, gap=4
    ),
    "one pixel, all taps but one outside": Conv((1, 1), (512,), 5, zeros=3),
    "joined inputs, one enlarged": Conv(
        (4, 6), (512, 1024), 32, kernel=(1, 1), padding=(0, 0), upsample=(2, 1)
    ),
    "rows without a single tap": Conv((2, 3), (512,), 9, kernel=(2, 1), padding=(3, 0), dilation=(1, 2)),
    "1x1 with stride": Conv((5, 5), (1024,), 20, kernel=(1, 1), padding=(0, 0), stride=(2, 2)),
    "all weights zero": Conv((3, 3), (512,), 32, kernel=(1, 1), padding=(1, 1), zeros=4),
    "no zeros": Conv((4, 5), (512,), 40, zeros=0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_ptx(generated, name):
    for i, conv in enumerate(LAYERS.values()):
        problem = Problem(conv, i)
        # Both moments at which a copy may land, both orders of warps.
        options = {"late": i % 2 == 0, "backwards": i % 3 == 0}
        if "_bits_" in name:
            check_bits(generated, name, problem, **options)
        else:
            check_stream(generated, name, problem, i, **options)
