"""Every operation as on a GPU: checked, planned, launched through the driver, run by the emulator, equal to the reference."""

from __future__ import annotations

import warnings

import pytest
import torch
from emulator import build
from torch import Tensor

from mbu_ops import fallback, reference
from mbu_ops import functional as mbu
from mbu_ops.packing import pack_bits, pack_weight, words_of

from .conftest import CARDS, Gpu

OPS = torch.ops.mbu_emulated


@pytest.fixture(autouse=True)
def _silent_fallback(gpu: Gpu) -> None:
    """The warning of the fallback has its own test."""
    fallback._warned.add("cpu")


def generated_files() -> bool:
    return build.NVCC is not None and build.generator().cutlass_headers() is not None


def random_bits(n: int, height: int, width: int, channels: int) -> Tensor:
    return pack_bits(torch.rand(n, height, width, channels) < 0.5)


def random_planes(out_channels: int, channels: int, kernel: int) -> Tensor:
    return pack_weight(torch.randint(-1, 2, (out_channels, channels, kernel, kernel)))


def launched(gpu: Gpu) -> list[str]:
    """The kernels of the last calls; none on the card that has none."""
    names = [line.split()[1] for line in gpu.log() if line.startswith("launch")]
    assert not names if gpu.family == "none" else names, gpu.emulation_error()
    return names


# channels, out_channels, kernel, stride, padding, dilation, pad_value, height, width
LAYERS = [
    (32, 32, 3, 1, 1, 1, 0, 5, 7),
    (70, 40, 3, 2, 1, 1, -1, 8, 6),
    (128, 33, 3, 1, 2, 2, 0, 6, 6),
    (5, 7, 1, 1, 0, 1, 0, 3, 4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_convolution(gpu: Gpu, layer: tuple[int, ...]) -> None:
    channels, out_channels, kernel, stride, padding, dilation, pad_value, height, width = layer
    bits, planes = random_bits(2, height, width, channels), random_planes(out_channels, channels, kernel)
    weight = OPS.tile_weight(planes)
    geometry = [stride] * 2, [padding] * 2, [dilation] * 2, pad_value
    found = OPS.conv2d([bits], weight, out_channels, [kernel] * 2, *geometry)
    expected = reference.conv2d(bits, planes, *geometry)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    names = launched(gpu)
    assert all(gpu.family in name and "_stream_" in name for name in names)

    threshold = torch.randint(-9, 9, (2, out_channels), dtype=torch.int32)
    flip = pack_bits(torch.rand(2, out_channels) < 0.5)
    found = OPS.conv2d_threshold([bits], weight, threshold, flip, out_channels, [kernel] * 2, *geometry)
    assert torch.equal(found, reference.conv2d_threshold(bits, planes, threshold, flip, *geometry))
    vector = next(n for n in (4, 2, 1) if words_of(channels) % n == 0)
    assert all(f"_bits_v{vector}__{gpu.family}" in name for name in launched(gpu))


@pytest.mark.parametrize("shape", [((2, 9), 256, 40), ((7,), 70, 33)], ids=str)
@pytest.mark.parametrize("setting", ["always", "never"])
def test_matrix_product(gpu: Gpu, shape: tuple, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a product of CUTLASS where the table or the environment asks for one, else by a convolution."""
    monkeypatch.setenv("MBU_CUDA_GEMM", setting)
    leading, channels, oc = shape
    bits, planes = pack_bits(torch.rand(*leading, channels) < 0.5), random_planes(oc, channels, 1)
    weight = OPS.tile_weight(planes)
    threshold = torch.randint(-9, 9, (2, oc), dtype=torch.int32)
    flip = pack_bits(torch.rand(2, oc) < 0.5)
    assert torch.equal(OPS.gemm(bits, weight, oc), reference.gemm(bits, planes))
    found = OPS.gemm_threshold(bits, weight, threshold, flip, oc)
    assert torch.equal(found, reference.gemm_threshold(bits, planes, threshold, flip))
    image = bits.reshape(1, -1, 1, words_of(channels))
    found = OPS.conv2d([image], weight, oc, [1, 1], [1, 1], [0, 0], [1, 1], 0)
    assert torch.equal(found, reference.conv2d(image, planes))
    # Rows of three words are no whole copies of 16 bytes; bytes are no products of CUTLASS.
    possible = channels == 256 and gpu.family not in ("sm80_int8", "none") and generated_files()
    starts = "gemm_" if possible and setting == "always" else "conv2d_"
    assert all(name.startswith(starts) and gpu.family in name for name in launched(gpu))


@pytest.mark.parametrize(
    "tiles, channels, starts",
    [((36, 6), 1024, "gemm_"), ((36, 6), 512, "conv2d_"), ((1, 1), 1024, "conv2d_")],
)
def test_the_table_asks_for_long_sums_and_many_blocks(
    gpu: Gpu, tiles: tuple[int, int], channels: int, starts: str
) -> None:
    """From 1024 channels and two blocks for each of the 108 multiprocessors that the fake driver reports."""
    stem = next((stem for stem in build.GENERATED_FILES if stem.endswith(gpu.family)), None)
    if stem is None or not generated_files():
        pytest.skip("no product of CUTLASS for this card")
    rows, oc = (
        count * int(side)
        for count, side in zip(tiles, stem.partition("__")[0].rpartition("_")[2].split("x"), strict=True)
    )
    bits, planes = random_bits(1, 1, rows, channels)[0, 0], random_planes(oc, channels, 1)
    assert torch.equal(OPS.gemm(bits, OPS.tile_weight(planes), oc), reference.gemm(bits, planes))
    assert all(kernel.startswith(starts) for kernel in launched(gpu))


def test_transposed_convolution(gpu: Gpu) -> None:
    bits, planes = random_bits(1, 4, 3, 64), random_planes(20, 64, 2)
    weight, geometry = OPS.tile_weight(planes), ([2, 2], [0, 0], [0, 0], [1, 1])
    found = OPS.conv_transpose2d([bits], weight, 20, [2, 2], *geometry)
    assert torch.equal(found, reference.conv_transpose2d(bits, planes, *geometry))
    assert len(launched(gpu)) == (gpu.family != "none")  # all four phases in one launch
    threshold, flip = torch.zeros(1, 20, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    found = OPS.conv_transpose2d_threshold([bits], weight, threshold, flip, 20, [2, 2], *geometry)
    expected = reference.conv_transpose2d_threshold(bits, planes, threshold, flip, *geometry)
    assert torch.equal(found, expected)


def test_float_stream(gpu: Gpu) -> None:
    bits, planes = random_bits(1, 6, 4, 40), random_planes(16, 40, 3)
    weight = OPS.tile_weight(planes)
    # Steps that round nowhere: the reference takes its multiply-adds in float64.
    affine = torch.tensor([0.5, 0.25])[:, None, None].expand(2, 2, 16).contiguous()
    residual = [torch.randn(1, 4, 3, 2), torch.randn(1, 4, 3, 2).to(memory_format=torch.channels_last)]
    threshold = torch.randn(1, 16)
    layer = 16, [3, 3], [1, 1], [1, 1], [1, 1], 0
    found = OPS.conv2d_stream([bits], weight, affine, residual, threshold, *layer, 1, 2, True)
    dots = reference.conv2d(bits, planes, 1, 1)
    expected = reference.stream(dots, affine, residual, threshold, 1, 2, True)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    launched(gpu)


# By one block of each size, and by torch behind the stream.
@pytest.mark.parametrize("oc, head_is_fused", [(8, True), (32, True), (61, True), (70, False)])
def test_a_stream_with_a_head(gpu: Gpu, oc: int, head_is_fused: bool) -> None:
    bits, planes = random_bits(1, 5, 7, 64), random_planes(oc, 64, 3)
    affine, head, bias = torch.rand(2, 2, oc), torch.randn(3, oc), torch.randn(3)
    residual = [torch.randn(1, oc, 5, 7)]
    layer = oc, [3, 3], [1, 1], [1, 1], [1, 1], 0, 1, 1, True, []
    weight = OPS.tile_weight(planes)
    y, _ = OPS.conv2d_stream([bits], weight, affine, residual, None, *layer)
    for b in (bias, None):
        logits, words = OPS.conv2d_stream([bits], weight, affine, residual, None, *layer, head, b)
        assert words.shape == (1, 5, 7, 0)
        assert logits.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(logits, torch.nn.functional.conv2d(y, head[:, :, None, None], b))
        if head_is_fused and gpu.family != "none":
            assert torch.equal(logits, one_by_one(y, head, b))
    launched(gpu)


def one_by_one(y: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
    """Logits as the kernels take them: channel by channel, each product and sum rounded once."""
    logits = (
        torch.zeros(len(head), *y.shape[2:]) if bias is None else bias[:, None, None].expand(-1, *y.shape[2:])
    )
    for channel in range(y.shape[1]):
        product = head[:, channel, None, None].double() * y[0, channel].double()
        logits = (logits.double() + product).float()
    return logits[None]


def test_the_first_convolution(gpu: Gpu) -> None:
    """As on the CPU, to the last bit; without a kernel torch's own, whose sums round in another order."""
    equal = torch.testing.assert_close if gpu.family == "none" else torch.equal
    x, weight = torch.randn(2, 3, 6, 11), mbu.tile_stem_weight(torch.randn(40, 3, 3, 3))
    affine, threshold = torch.rand(1, 2, 40), torch.randn(2, 40)
    geometry = [2, 1], [1, 1], [1, 1]
    for dtype in (None, torch.bfloat16):
        found = OPS.stem_stream(x, weight, affine, threshold, *geometry, True, dtype)
        expected = mbu.stem_stream(x, weight, affine, threshold, *geometry, relu=True, dtype=dtype)
        assert equal(found[0], expected[0]) is not False
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        assert gpu.family == "none" or torch.equal(found[1], expected[1])
    flip = pack_bits(torch.rand(2, 40) < 0.5)
    bits = OPS.stem_threshold(x, weight, threshold, flip, *geometry)
    assert gpu.family == "none" or torch.equal(
        bits, mbu.stem_threshold(x, weight, threshold, flip, *geometry)
    )
    assert set(launched(gpu)) <= {"stem__sm75"}


def test_heads_are_torchs(gpu: Gpu) -> None:
    y, head, gate = torch.randn(1, 20, 6, 6), torch.randn(2, 3, 3, 20), torch.rand(1, 20, 1, 1)
    logits = OPS.head_conv2d(y, head, None, [1, 1])
    expected = torch.nn.functional.conv2d(y, head.permute(0, 3, 1, 2), padding=1)
    torch.testing.assert_close(logits, expected)
    logits = OPS.joined_head([y[:, :8], y[:, 8:]], head[:, 0, 0], None, gate)
    expected = torch.nn.functional.conv2d(y * gate, head[:, 0, 0, :, None, None])
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pack_and_unpack(gpu: Gpu, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 37, 3, 5).to(dtype).contiguous(memory_format=memory_format)
    threshold, flip = torch.randn(37), pack_bits(torch.rand(37) < 0.5)
    gate = torch.randn(2, 37, 1, 1)
    assert torch.equal(OPS.pack(x, threshold, flip, gate), reference.pack(x, threshold, flip, gate))
    bits = OPS.pack(x, threshold, flip)
    assert torch.equal(bits, reference.pack(x, threshold, flip))
    assert torch.equal(OPS.unpack(bits, 37), reference.unpack(bits, 37))
    names = launched(gpu)
    if names:
        assert names[0].startswith("pack_channels" if memory_format == torch.channels_last else "pack_pixels")


@pytest.mark.parametrize("parts", [3, 17])
def test_join_bits(gpu: Gpu, parts: int) -> None:
    """More parts than a launch lists are torch's work."""
    channels = [12, 40, 24, *range(1, parts - 2)]
    bits = [random_bits(2, 4, 3, count) for count in channels]
    assert torch.equal(OPS.join_bits(bits, channels), reference.join_bits(bits, channels))
    starts = any(line.startswith("launch join_bits__sm75 ") for line in gpu.log())
    assert starts == (gpu.family != "none" and parts == 3)


@pytest.mark.parametrize("channels", [32, 128, 100])
def test_max_pool(gpu: Gpu, channels: int) -> None:
    bits = random_bits(2, 7, 6, channels)
    found = OPS.max_pool2d(bits, [3, 3], [2, 2], [1, 1], [1, 1], True)
    assert torch.equal(found, reference.max_pool2d(bits, 3, 2, 1, 1, True))
    # A slice of the words is read in place.
    part = random_bits(1, 4, 4, channels + 32)[..., 1:]
    assert torch.equal(
        OPS.max_pool2d(part, [2, 2], [2, 2], [0, 0], [1, 1], False), reference.max_pool2d(part, 2)
    )
    launched(gpu)


def test_a_weight_of_another_card_is_refused(gpu: Gpu) -> None:
    bits, planes = random_bits(1, 3, 3, 32), random_planes(8, 32, 1)
    own = OPS.tile_weight(planes)
    with pytest.raises(RuntimeError, match="tile the planes again on this device"):
        OPS.conv2d([bits], torch.cat([own, own.new_zeros(8)]), 8, [1, 1], [1, 1], [0, 0], [1, 1], 0)
    with pytest.raises(RuntimeError, match="tile the planes again on this device"):
        other = torch.cat([own, own.new_zeros(1)])
        OPS.conv2d([bits], other, 8, [1, 1], [1, 1], [0, 0], [1, 1], 0)


def test_a_layer_that_no_kernel_takes_runs_as_float_operations(gpu: Gpu) -> None:
    """A transposed stride of 9 has more phases than a launch."""
    bits, planes = random_bits(1, 2, 2, 40), random_planes(12, 40, 9)
    weight = OPS.tile_weight(planes)
    found = OPS.conv_transpose2d([bits], weight, 12, [9, 9], [9, 9], [0, 0], [0, 0], [1, 1])
    assert torch.equal(found, reference.conv_transpose2d(bits, planes, 9))
    assert not [line for line in gpu.log() if line.startswith("launch")]


def test_a_card_without_kernels_warns_once(gpu: Gpu) -> None:
    fallback._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bits = OPS.pack(torch.randn(1, 3, 2, 2), None, None)
        OPS.unpack(bits, 3)
    assert len(caught) == (gpu.family == "none")
    assert all("run as float operations of torch" in str(warning.message) for warning in caught)


def test_work_goes_to_the_current_stream_of_the_device(gpu: Gpu) -> None:
    OPS.pack(torch.randn(1, 3, 2, 2), None, None)
    index = list(CARDS).index(gpu.family)
    line = f"launch pack_pixels__sm75 on {index} stream 0x5150 grid 1x1x1 threads 256 shared 0"
    assert (line in gpu.log()) == (gpu.family != "none")
