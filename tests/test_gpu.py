"""On a card: every operation against the reference, converted networks, CUDA graphs, the routes of kernels.

What needs no card runs on the processor too, so that these tests are known to run.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mbu import convert, make_plan, prepare
from lightning_mbu.models import MBUNet
from mbu_ops import fallback, pack_bits, pack_weight, reference
from mbu_ops.cuda import cuda_choices, cuda_devices, cuda_images
from mbu_ops.doctor import examples, self_test
from mbu_ops.peak import peak_rates

CUDA_TESTS = Path(__file__).resolve().parent / "ops" / "cuda"
sys.path.insert(0, str(CUDA_TESTS))
from emulator.cases import LAYERS, Problem
from emulator.checks import random_stream

OPS = torch.ops.mbu
ON_A_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or a CPU build of torch")
PLACES = [pytest.param("cuda", marks=ON_A_CARD), "cpu"]
everywhere = pytest.mark.parametrize("place", PLACES)


# What has no kernel on GPUs.
WITHOUT = {"head_conv2d", "joined_head", "upsample_bilinear2d", "attention"}


@pytest.fixture(autouse=True)
def _by_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Right numbers of torch's own operations prove nothing."""
    reasons: dict[tuple[str, str], str] = {}
    monkeypatch.setattr(fallback, "reasons", reasons)
    yield
    assert not {name: why for (name, where), why in reasons.items() if where != "cpu" and name not in WITHOUT}


@pytest.fixture(scope="module")
def packed():
    model, example = MBUNet(width=16).eval(), torch.randn(1, 3, 64, 64)
    return convert(prepare(model, make_plan(model, example)), example)


def call(problem: Problem, place: str, name: str, *epilogue: Any, **more: Any) -> Any:
    """`conv2d` or `conv_transpose2d`, with what `name` adds, on the sources of a problem as views of wider memory."""
    c = problem.conv
    parts = [
        source.to(place)[..., : -(-channels // 32)]
        for source, channels in zip(problem.sources, c.channels, strict=True)
    ]
    weight = OPS.tile_weight(problem.weight.to(place))
    operation = getattr(OPS, ("conv_transpose2d" if c.transposed else "conv2d") + name)
    geometry = [list(c.kernel), list(c.stride), list(c.padding)]
    geometry += [list(c.extra), list(c.dilation)] if c.transposed else [list(c.dilation), c.pad_value]
    return operation(parts, weight, *epilogue, c.out_channels, *geometry, size=list(c.size), **more)


@everywhere
@pytest.mark.parametrize("words", [1, 2, 4])
@pytest.mark.parametrize("name", [*LAYERS, "no zeros"])
def test_a_layer_to_bits_and_to_sums(place: str, name: str, words: int) -> None:
    conv = replace(LAYERS["3x3"](words), zeros=0) if name == "no zeros" else LAYERS[name](words)
    problem = Problem(conv, words)
    assert torch.equal(call(problem, place, "").cpu(), problem.dots)
    threshold, flip = problem.thresholds()
    found = call(problem, place, "_threshold", threshold.to(place), flip.to(place))
    assert torch.equal(found.cpu(), reference._threshold(problem.dots, threshold, flip))


@everywhere
@pytest.mark.parametrize("seed", range(20))
def test_a_layer_to_a_stream(place: str, seed: int) -> None:
    """Shortcuts that are pooled, enlarged, repeated or in parts; every stored type."""
    problem = Problem(list(LAYERS.values())[seed % len(LAYERS)](1 + seed % 2), seed)
    stream = random_stream(problem, seed)
    if place == "cpu" and torch.float16 in (stream.dtype, *(part.dtype for part in stream.residual)):
        pytest.skip("streams of float16 are for GPUs")
    there = [part.to(place) for part in stream.residual]
    limits = None if stream.threshold is None else stream.threshold.to(place)
    more = {"pool": stream.pool, "upsample": stream.upsample, "relu": stream.relu, "dtype": stream.dtype}
    values, bits = call(problem, place, "_stream", stream.affine.to(place), there, limits, **more)
    expected_values, expected_bits = problem.expected_stream(stream)
    assert torch.equal(values.cpu(), expected_values)
    assert torch.equal(bits.cpu(), expected_bits)


@everywhere
def test_a_stream_with_a_head(place: str) -> None:
    """The head sums float32 channel by channel, in an order that is the kernel's own."""
    problem = Problem(LAYERS["3x3"](2), 5)
    affine = torch.tensor([0.5, 0.25])[:, None].expand(1, 2, problem.conv.out_channels).contiguous()
    head, bias = torch.randn(3, problem.conv.out_channels), torch.randn(3)
    more = {"relu": True, "head": head.to(place), "head_bias": bias.to(place)}
    logits, _ = call(problem, place, "_stream", affine.to(place), [], None, **more)
    y, _ = reference.stream(problem.dots, affine, [], None, relu=True)
    torch.testing.assert_close(logits.cpu(), torch.nn.functional.conv2d(y, head[:, :, None, None], bias))


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bits_of_floats_and_back(place: str, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 37, 9, 5).to(dtype).contiguous(memory_format=memory_format)
    threshold, flip = torch.randn(2, 37), pack_bits(torch.rand(2, 37) < 0.5)
    found = OPS.pack(x.to(place), threshold.to(place), flip.to(place))
    expected = reference.pack(x, threshold, flip)
    assert torch.equal(found.cpu(), expected)
    words = expected.shape[-1] // 2
    assert torch.equal(OPS.unpack(found[..., words:], 37).cpu(), reference.unpack(expected[..., words:], 37))
    parts = [pack_bits(torch.rand(2, 9, 5, channels) < 0.5) for channels in (12, 40, 24)]
    joined = OPS.join_bits([part.to(place) for part in parts], [12, 40, 24])
    assert torch.equal(joined.cpu(), reference.join_bits(parts, [12, 40, 24]))


@everywhere
@pytest.mark.parametrize("channels", [32, 128, 100])
def test_pools_and_matrix_products(place: str, channels: int) -> None:
    bits = pack_bits(torch.rand(2, 7, 6, channels) < 0.5)
    found = OPS.max_pool2d(bits.to(place), [3, 3], [2, 2], [1, 1], [1, 1], True)
    assert torch.equal(found.cpu(), reference.max_pool2d(bits, 3, 2, 1, 1, True))
    planes = pack_weight(torch.randint(-1, 2, (40, channels, 1, 1)))
    found = OPS.gemm(bits.to(place), OPS.tile_weight(planes.to(place)), 40)
    assert torch.equal(found.cpu(), reference.gemm(bits, planes))


@everywhere
def test_the_first_convolution_has_the_processors_sums(place: str) -> None:
    x, weight = torch.randn(2, 3, 19, 23), torch.randn(2, 3, 3, 3, 32)
    affine, threshold = torch.randn(1, 2, 40), torch.randn(1, 40)
    arguments = affine, threshold, [1, 1], [1, 1], [1, 1], True
    expected = OPS.stem_stream(x, weight, *arguments)
    there = (t.to(place) if isinstance(t, Tensor) else t for t in arguments)
    found = OPS.stem_stream(x.to(place), weight.to(place), *there)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


@everywhere
def test_a_compiled_network_repeats_the_eager_result(packed, place: str) -> None:
    there, x = copy.deepcopy(packed).to(place), torch.randn(1, 3, 64, 64).to(place)
    fast = torch.compile(there, mode="reduce-overhead", dynamic=False)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        expected = there(x).clone()
        for _ in range(4):  # compiled, recorded, replayed
            assert torch.equal(fast(x), expected)
        other = torch.randn_like(x)
        assert torch.equal(fast(other).clone(), there(other))
    if place == "cuda":
        assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


@everywhere
@pytest.mark.parametrize("setting", ["always", "never"])
@pytest.mark.parametrize(
    "kernel, stride, dilation, pad_value", [(3, 1, 1, 0), (3, 2, 1, -1), (3, 1, 2, 0), (1, 1, 1, 0)]
)
def test_many_channels_on_both_kinds_of_kernel(
    place, setting, kernel, stride, dilation, pad_value, monkeypatch
) -> None:
    """The main loops of CUTLASS, for which there may be too few blocks otherwise, and our own."""
    monkeypatch.setenv("MBU_CUDA_GEMM", setting)
    random = torch.Generator().manual_seed(kernel + stride)
    bits = pack_bits(torch.rand(2, 19, 23, 1024, generator=random) < 0.5)
    planes = pack_weight(torch.randint(-1, 2, (72, 1024, kernel, kernel), generator=random))
    threshold = torch.randint(-60, 60, (2, 72), dtype=torch.int32, generator=random)
    flip = pack_bits(torch.rand(2, 72, generator=random) < 0.5)
    geometry = [stride] * 2, [kernel // 2] * 2, [dilation] * 2, pad_value
    there, weight = bits.to(place), OPS.tile_weight(planes.to(place))
    found = OPS.conv2d([there], weight, 72, [kernel] * 2, *geometry)
    assert torch.equal(found.cpu(), reference.conv2d(bits, planes, *geometry))
    limits = threshold.to(place), flip.to(place)
    found = OPS.conv2d_threshold([there], weight, *limits, 72, [kernel] * 2, *geometry)
    assert torch.equal(found.cpu(), reference.conv2d_threshold(bits, planes, threshold, flip, *geometry))


@ON_A_CARD
def test_every_device_has_kernels_and_passes_the_self_test() -> None:
    for device in cuda_devices():
        place = f"cuda:{device.index}"
        assert self_test(place)
        if device.capability < 75:
            continue
        assert device.families, device.refusals
        for name, arguments in examples(place).items():
            getattr(OPS, name)(*arguments)


@ON_A_CARD
@torch.inference_mode()
def test_a_network_moves_to_the_gpu_and_back(packed) -> None:
    x = torch.randn(2, 3, 64, 96)
    expected = packed(x)
    there = copy.deepcopy(packed).to("cuda")
    torch.testing.assert_close(there(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="the input is on cpu and the model on cuda"):
        there(x)
    assert torch.equal(there.to("cpu")(x), expected)


@ON_A_CARD
@torch.inference_mode()
def test_a_captured_graph_repeats_the_eager_result(packed) -> None:
    there, x = copy.deepcopy(packed).to("cuda"), torch.randn(1, 3, 64, 64, device="cuda")
    eager = there(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = there(x)
    graph.replay()
    assert torch.equal(captured, eager)


@ON_A_CARD
def test_the_timed_search_keeps_what_it_measured(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MBU_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MBU_CUDA_SEARCH", "1")
    assert cuda_choices(0) == []
    assert self_test("cuda:0")
    choices = cuda_choices(0)
    assert choices
    assert all(time > 0 for choice in choices for time in choice.times.values())


@ON_A_CARD
def test_every_instruction_has_a_rate_or_a_reason() -> None:
    peaks = peak_rates(torch.device("cuda:0"), rounds=64)
    assert any(peak.rate for peak in peaks)
    assert all(peak.rate or peak.why for peak in peaks)


def without_images(folder: Path, driver: Path | None = None) -> dict[str, str]:
    """Settings under which the library meets a driver that takes none of its images; `driver` or this machine's."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    (folder / "names").mkdir()
    named, shim = folder / "names" / "libcuda.so.1", folder / "without_images.so"
    compiled = ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{CUDA_TESTS.parents[2] / 'ops' / 'csrc'}"]
    nothing = ["-x", "c++", os.devnull, "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*compiled, *([str(driver)] if driver else nothing), "-o", str(named)], check=True)
    source = CUDA_TESTS / "driver" / "without_images.cpp"
    subprocess.run([*compiled, str(source), "-Wl,--no-as-needed", str(named), "-o", str(shim)], check=True)
    if driver is None:
        named.unlink()
    found = {"LD_LIBRARY_PATH": f"{named.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    return {**os.environ, **found, "MBU_CUDA_DRIVER": str(shim), "MBU_CACHE_DIR": str(folder)}


def routes(settings: dict[str, str], test: str = "None") -> tuple[dict[str, str], dict[str, str], Any]:
    """Routes and refusals of the first card in a process of its own, and the value of `test` there."""
    code = (
        "import json; from mbu_ops.cuda import cuda_devices; from mbu_ops.doctor import self_test; "
        f"card = cuda_devices()[0]; print(json.dumps([card.routes, card.refusals, {test}]))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


@ON_A_CARD
def test_what_nvrtc_compiles_runs_too(tmp_path: Path) -> None:
    found, refused, right = routes(without_images(tmp_path), "self_test('cuda:0')")
    convolutions = [name for name in found if name.startswith("conv2d_")]
    assert convolutions, refused
    assert all(found[name].startswith("NVRTC ") for name in convolutions)
    assert right


def test_a_driver_that_takes_no_image_of_the_library(tmp_path: Path) -> None:
    """The one of the test above, before a fake card."""
    settings = without_images(tmp_path, CUDA_TESTS / "driver" / "fake_driver.cpp")
    found, refused, _ = routes(
        {**settings, "FAKE_DEVICES": "9.0:232448", "MBU_NVRTC": "/nowhere/libnvrtc.so"}
    )
    assert not found
    compiled = {image.stem for image in cuda_images()}
    why = refused["conv2d_64x64_bits_v4__sm90_and"]
    assert ("cuModuleLoadDataEx" in why) == ("conv2d/conv2d_64x64__sm90_and" in compiled) and "NVRTC" in why
