"""Which kernel runs a layer: by the table, by the environment, and by the timed search on a driver with made-up times."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from emulator import build

from mbu_ops import fallback, peak, reference
from mbu_ops.packing import pack_bits, pack_weight

from .conftest import CARDS, Gpu
from .test_dispatch import generated_files, launched, random_bits, random_planes

OPS = torch.ops.mbu_emulated
INCLUDED = [
    line
    for line in (build.CSRC / "cuda" / "kernels.inc").read_text().splitlines()
    if line.startswith("MBU_CUDA_KERNEL")
]


@pytest.fixture(autouse=True)
def _settings(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallback._warned.add("cpu")
    monkeypatch.setenv("MBU_CACHE_DIR", str(tmp_path))
    if gpu.family == "none":
        pytest.skip("a card without kernels chooses none")


@pytest.mark.parametrize("setting", ["always", "never"])
def test_wide_convolutions(gpu: Gpu, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of whole stages on a main loop of CUTLASS, joined ones too; others on our own."""
    monkeypatch.setenv("MBU_CUDA_GEMM", setting)
    possible = gpu.family != "sm80_int8" and generated_files() and setting == "always"
    for channels in ((512,), (512, 1024), (512, 128)):
        parts = [random_bits(1, 4, 5, n) for n in channels]
        planes = pack_weight(torch.randint(-1, 2, (33, sum(channels), 3, 3)))
        weight, joined = OPS.tile_weight(planes), torch.cat(parts, -1)
        geometry = [3, 3], [1, 1], [1, 1], [1, 1], 0
        found = OPS.conv2d(parts, weight, 33, *geometry, [4, 5])
        assert torch.equal(found, reference.conv2d(joined, planes, 1, 1))
        threshold = torch.randint(-9, 9, (2, 33), dtype=torch.int32)
        flip = pack_bits(torch.rand(2, 33) < 0.5)
        found = OPS.conv2d_threshold(parts, weight, threshold, flip, 33, *geometry, [4, 5])
        assert torch.equal(found, reference.conv2d_threshold(joined, planes, threshold, flip, 1, 1))
        starts = "wide_conv2d_" if possible and channels != (512, 128) else "conv2d_"
        assert all(name.startswith(starts) and gpu.family in name for name in launched(gpu))


@pytest.mark.parametrize("index, family", [(0, "sm80_int8"), (1, "sm70_xor")])
def test_a_family_by_name(gpu: Gpu, index: int, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes on a card that has bits too, to compare them there; a name that does not exist is refused."""
    if gpu.family != "sm90_and":
        pytest.skip("once is enough")
    monkeypatch.setenv("MBU_CUDA_FAMILY", family)
    gpu.libraries["operations"].host_set_device(len(CARDS) + index)
    bits, planes = random_bits(1, 3, 7, 32), random_planes(7, 32, 3)
    found = OPS.conv2d([bits], OPS.tile_weight(planes), 7, [3, 3], [1, 1], [1, 1], [1, 1], 0)
    assert torch.equal(found, reference.conv2d(bits, planes, 1, 1))
    names = [line.split()[1] for line in gpu.log() if line.startswith("launch")]
    assert names == (["conv2d_32x32_stream_v1__sm80_int8"] if index == 0 else [])


def test_instructions_reach_their_sums(gpu: Gpu) -> None:
    """The kernels that measure peak rates: their sums are known."""
    names = [line.split("(")[1].split(",")[0] for line in INCLUDED]
    call = gpu.libraries["operations"].mbu_cuda_peak
    call.restype = ctypes.c_double
    text = ctypes.create_string_buffer(1024)
    for form in peak.INSTRUCTIONS:
        out = torch.zeros(2, peak.THREADS, dtype=torch.int32)
        place = ctypes.c_void_p(out.data_ptr())
        time = call(gpu.index, names.index(f"peak__{form}"), 2, 3, place, None, text, len(text))
        runs = form == gpu.family or (form == "sm80_int8" and gpu.family != "sm75_xor")
        runs = runs or (form.startswith("sm90_wgmma") and gpu.family == "sm90_and")
        assert (time > 0) == runs, text.value
        assert torch.equal(out, torch.full_like(out, peak.total(form, 3) if runs else 0))
        assert runs or b"not for compute capability" in text.value
    gpu.log()


def measured(gpu: Gpu, device: int) -> list[list[str]]:
    """The lines of each layer that the search measured."""
    text = ctypes.create_string_buffer(1 << 16)
    gpu.libraries["operations"].mbu_cuda_measured(device, text, len(text))
    return [layer.splitlines() for layer in text.value.decode().split("\n\n") if layer]


def test_the_fastest_is_taken_and_kept(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = f"conv2d_64x64_stream_v1__{gpu.family}"
    monkeypatch.setenv("MBU_CUDA_SEARCH", "1")
    monkeypatch.setenv("FAKE_TIMES", f"{fastest}=2.5;conv2d_32x32_stream_v1__{gpu.family}=3")
    bits, planes = random_bits(1, 3, 7, 32), random_planes(7, 32, 3)
    weight, layer = OPS.tile_weight(planes), (7, [3, 3], [1, 1], [1, 1], [1, 1], 0)

    monkeypatch.setenv("FAKE_CAPTURE", "1")  # nothing can be timed in a graph: the table's word
    OPS.conv2d([bits], weight, *layer)
    assert launched(gpu) == [f"conv2d_32x32_stream_v1__{gpu.family}"]
    monkeypatch.delenv("FAKE_CAPTURE")

    assert torch.equal(OPS.conv2d([bits], weight, *layer), reference.conv2d(bits, planes, 1, 1))
    names = launched(gpu)
    # A round that warms up, then five rounds of ten launches of each of the three tiles; then the layer itself.
    assert len(names) == 3 * 51 + 1
    assert names[-1] == fastest
    OPS.conv2d([bits], weight, *layer)
    assert launched(gpu) == [fastest]  # from memory

    (path,) = (tmp_path / "kernels").glob("*.choice")
    assert path.stat().st_mode & 0o077 == 0
    index = [line for line in measured(gpu, gpu.index) if line]
    (lines,) = index
    assert (
        lines[0]
        == "1x3x7, 32 to 7 channels, kernel 3x3 stride 1x1 padding 1x1 dilation 1x1 upsample 1x1, sums"
    )
    assert lines[1] == f"conv2d_32x32_stream_v1__{gpu.family}"
    assert f"{fastest} 2.500" in lines
    path.write_bytes(path.read_bytes()[:-1])  # a cut file says nothing
    assert measured(gpu, gpu.index) == []


def test_layers_of_other_times_are_measured_apart(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing in the name of a measured layer would lend its kernel to another layer."""
    if gpu.family != "sm80_xor":
        pytest.skip("once is enough")
    monkeypatch.setenv("MBU_CUDA_SEARCH", "1")
    bits, planes = random_bits(1, 1, 2, 32), random_planes(8, 32, 1)
    both = OPS.tile_weight(planes), OPS.tile_weight(pack_weight(torch.ones(8, 32, 1, 1)))
    affine, head = torch.ones(1, 2, 8), torch.ones(3, 8)
    flat, image = ([1, 1], [1, 1], [0, 0], [1, 1]), torch.zeros(1, 8, 1, 2)
    nearby, narrow = image.contiguous(memory_format=torch.channels_last), image.to(torch.bfloat16)
    streams = [{}, {"dtype": torch.bfloat16}, {"relu": True}, {"head": head}, {"head": head[:2]}]
    for weight in both:
        for pad_value in (0, -1):
            OPS.conv2d([bits], weight, 8, *flat, pad_value)
        for more in streams:
            OPS.conv2d_stream([bits], weight, affine, [], None, 8, *flat, **more)
        for residual in ([image], [nearby], [narrow], [image[:, :4], image[:, 4:]], [image, narrow]):
            OPS.conv2d_stream([bits], weight, affine, residual, None, 8, *flat)
    gpu.log()
    layers = measured(gpu, gpu.index)
    named = {lines[0] for lines in layers}
    assert len(named) == len(layers) == 2 * (2 + len(streams) + 5)
    assert sum("without zeros" in name for name in named) == len(named) / 2
    for part in (
        "padding 0x0 of -1 ",
        "1 steps to bfloat16",
        ", relu",
        "head of 2 classes",
        ", residual 8 planar float32 + 8 planar bfloat16 pool 1 upsample 1",
        ", residual 8 float32 pool",
    ):
        assert any(part in name for name in named), part
