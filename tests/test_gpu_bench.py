"""The GPU benchmark's steps on the CPU, and the model that it compares with."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_mbu.bench import gpu, gpu_launches, gpu_layers, gpu_networks, gpu_page, gpu_rivals
from lightning_mbu.bench.gpu_launches import Launch
from mbu_ops import peak
from mbu_ops.cards import CARDS, Card
from mbu_ops.roofline import SIZES, Layer, choose, read_layers

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ROOT / "ops/bench/shapes/mbunet_256.txt"
TOYS = ["toy stem", "toy", "toy pool", "toy up", "toy last + toy head"]
CPU = torch.device("cpu")


DRY = ["--dry", "--repeats", "2", "--results"]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No networks: what surrounds them is quick."""
    monkeypatch.setattr(gpu, "networks", lambda dry: (None, None, torch.nn.Identity()))
    monkeypatch.setattr(gpu_networks, "check", lambda *a: {"bits": 1, "logits": 0.0})
    monkeypatch.setattr(gpu_networks, "network_row", lambda *a: network(1, "bf16"))


def side(ms: float, joules: float | None = None) -> dict[str, Any]:
    return {"ms": ms, "quartiles": [ms, ms], "images_per_s": 1e3 / ms, "joules": joules}


def network(images: int, rival: str, ours: float = 1.0, theirs: float = 2.5, **more: Any) -> dict[str, Any]:
    row = {"images": images, "size": [512, 512], "rival": rival, "note": "", "faster": theirs / ours}
    return row | {"ours": side(ours, 0.1), "theirs": side(theirs, 0.4)} | more


@pytest.mark.filterwarnings("ignore:only .* of the multiply-adds become one-bit:UserWarning")  # a toy network
def test_every_step_runs_dry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*DRY, str(tmp_path)]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert text in capsys.readouterr().out
    assert "none of these numbers is a result" in text
    for name in (
        *(f"| {name} |" for name in TOYS),
        "| 1 x 32x32 | bf16 |",
        "bits of the packed network are its trained twin's",
    ):
        assert name in text
    products = text[text.index("## The same sums in eight bits") :].splitlines()
    assert (
        len([line for line in products if re.fullmatch(r"\| \d+ x \d+ x \d+ \| [^|]+ \| [^|]+ \|", line)])
        == 3
    )
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["networks"][0]["differences"][0] == 0
    assert not results["dropped"]


@pytest.mark.usefixtures("toy")
def test_a_run_that_is_cut_off_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_rivals, "product_row", killed)
    with pytest.raises(KeyboardInterrupt):
        gpu.main([*DRY, str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["layer"] for row in results["layers"]] == TOYS
    assert "| toy up |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.usefixtures("toy")
def test_rows_without_time_or_memory_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_layers, "layer_row", full)
    assert gpu.main([*DRY, str(tmp_path)]) == 0
    assert "- toy up, 1 x 32x32: memory of the card does not suffice" in (tmp_path / "gpu.md").read_text()
    assert gpu.main([*DRY, str(tmp_path), "--budget", "0"]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "- 1 x 32x32 against bf16: no time was left" in text and "--budget 0" in text


@pytest.mark.usefixtures("toy")
def test_a_wrong_bit_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_launches.reference.conv2d_threshold
    monkeypatch.setattr(gpu_launches.reference, "conv2d_threshold", lambda *a: right(*a) ^ 1)
    with pytest.raises(RuntimeError, match="differs from the reference"):
        gpu_layers.checked(
            Launch((Layer("x", 32, 32, 16, 1, 9, 16),)), torch.zeros(1, 4, 4, 1, dtype=torch.int32)
        )
    assert gpu.main([*DRY, str(tmp_path)]) == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["layer"] for row in results["layers"]] == [name for name in TOYS if name != "toy"]
    assert results["dropped"][0][0] == "toy, 1 x 32x32"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_what_is_checked_runs_on_the_tiles_that_are_timed(card: Card) -> None:
    def tiles(images: int, size: tuple[int, int]) -> list[str]:
        return [choose(layer, card)[0].name for layer in read_layers(SHAPES, images, size) if layer.one_bit]

    checked = {pair for shape in gpu.CHECKED for pair in enumerate(tiles(*shape))}
    for images in (gpu.LATENCY, gpu.THROUGHPUT, *gpu.LARGE):
        for size in SIZES:
            assert checked.issuperset(enumerate(tiles(images, size)))


def test_every_shape_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that differ for the second shape alone."""
    found = SimpleNamespace(ok=True, layers=[SimpleNamespace(bits=3)])
    monkeypatch.setattr(gpu_networks, "verify", lambda *a: found)
    packed, cpu = identity(), torch.device("cpu")
    shapes = [(1, (8, 8)), (3, (4, 2))]
    assert gpu_networks.check(packed, packed, cpu, shapes) == {"bits": 3, "logits": 0.0}
    packed.register_forward_hook(lambda module, _, y: y + (len(y) == 3 and module is not packed))
    gpu_networks.check(packed, packed, cpu, shapes[:1])
    with pytest.raises(RuntimeError, match=r"for 3 x 2x4; nothing is timed"):
        gpu_networks.check(packed, packed, cpu, shapes)


def test_a_network_with_other_logits_is_not_timed() -> None:
    cpu, packed = torch.device("cpu"), identity()
    arguments = packed, 1, (8, 8), "bf16", cpu, 1, gpu_networks.Energy(cpu), True
    assert gpu_networks.network_row(packed, *arguments)["ours"]["joules"] is None
    with pytest.raises(RuntimeError, match="bf16 logits differ from float32 by 1"):
        gpu_networks.network_row(Zero(), *arguments)


def identity() -> Any:
    """A network that is its own packed twin."""
    packed: Any = torch.nn.Identity()
    packed.input_spec = SimpleNamespace(channels=3)
    return packed


class Zero(torch.nn.Module):
    """Another function in bfloat16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.dtype == torch.float32 else 0 * x


def test_every_shape_is_compiled_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second shape would else be compiled with dynamic sizes, which slows the rivals."""
    calls: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda module, **how: calls.append(how) or module)
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    cpu, packed = torch.device("cpu"), identity()
    for size in ((8, 8), (8, 16)):
        gpu_networks.network_row(packed, packed, 1, size, "bf16", cpu, 1, gpu_networks.Energy(cpu))
    assert calls == ["reset", *[{"mode": "reduce-overhead", "dynamic": False}] * 2] * 2


def test_a_network_that_does_not_compile_runs_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: object, dry: bool) -> object:
        def run(_: torch.Tensor) -> None:
            raise RuntimeError("no such op\nmore")

        return run

    monkeypatch.setattr(gpu_networks, "compiled", broken)
    x = torch.ones(1, 1, 2, 2)
    run, note = gpu_networks.one_bit_call(identity(), x, False)
    assert torch.equal(run(x), x)
    assert note.endswith("torch.compile failed: RuntimeError: no such op")


def test_eight_bits_take_at_least_their_products() -> None:
    """A product at its own time or at the best rate, in proportion to its rows."""
    one = Layer("one", 64, 64, 2 * gpu_rivals.MOST_ROWS, 1, 9, 1)
    up = Layer("up", 64, 32, 1024, 4, 1, 1024, "up")
    rows = [
        {"shape": list(shape), "int8": us}
        for shape, us in zip(gpu_rivals.timed_shapes([one, up]), (9.0, 100.0), strict=True)
    ]
    assert gpu_rivals.timed_shapes([one, up]) == [(1024, 64, 128), (gpu_rivals.MOST_ROWS, 576, 64)]
    rate = gpu_rivals.MOST_ROWS * 576 * 64 / 100
    assert gpu_rivals.bound_ms([one, up], rows, "int8") == pytest.approx((200 + 1024 * 64 * 128 / rate) / 1e3)
    rows[0]["int8"] = "refused"
    assert gpu_rivals.bound_ms([one, up], rows, "int8") is None


def test_the_page_says_what_is_met() -> None:
    layers = [layer for layer in read_layers(SHAPES, 64, (512, 512)) if layer.one_bit]
    products = [{"shape": list(s), "int8": 100.0, "fp8": "refused"} for s in gpu_rivals.timed_shapes(layers)]
    row = {"layer": "x", "images": 1, "size": [8, 8], "us": 1.0, "quartiles": [1.0, 1.0]}
    judged = {"predicted_us": 0.5, "bound": "memory", "peak": 0.1, "bandwidth": 0.3, "met": False}
    results = {
        "command": "make gpu-bench", "dry": False, "conditions": {}, "copy": 4300.0, "dropped": [],
        "peaks": [{"instruction": "s8", "rate": 1979.0, "why": ""}], "products": products, "layers": [row | judged],
        "networks": [network(64, "bf16"), network(64, "fp16", theirs=1.9), network(1, "fp16", note="a note")],
    }  # fmt: skip
    text = gpu_page.page(results, SHAPES)
    assert (
        "| 1 x 512x512 | fp16 | 1.000 (1.000 to 1.000) | 2.500 (2.500 to 2.500) | 2.50x | met | 1000 | 400 |"
        in text
    )
    assert re.search(r"64 x 512x512 \| fp16 .* 1\.90x \| \*\*not met\*\* .* 25% \| met \|", text)
    least = gpu_rivals.bound_ms(layers, products, "int8")
    assert (
        least is not None
        and f"| 64 x 512x512 | int8, lower bound | 1.000 | at least {least / 64:.3f} |" in text
    )
    assert "fp8, lower bound" not in text
    assert "0 of 1 reach what is asked" in text and "| a note |" in text and "| s8 | 1979 |" in text


def test_energy_is_the_cards_own_count(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(0, 10**6, 5000))  # millijoules
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counter),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    energy = gpu_networks.Energy(torch.device("cuda:0"))
    assert energy.joules(lambda: None, 250.0) == 5.0 / 4
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy = gpu_networks.Energy(torch.device("cuda:0"))
    assert energy.joules(lambda: None, 250.0) is None and "pynvml" in energy.why


def test_products_of_bytes_are_what_torch_says_or_refused() -> None:
    try:
        call = gpu_rivals.int8_call(32, 48, 16, torch.device("cpu"))
    except RuntimeError as error:
        pytest.skip(f"torch._int_mm on this processor: {error}")
    product = call()
    assert isinstance(product, torch.Tensor)
    assert product.shape == (32, 16)


def test_rates_count_every_product() -> None:
    """A warp's step of a b1 form is 16 x 8 sums of 256 bits, a multiply-add two operations."""
    assert peak.operations("sm80_xor", 1, 1) == 8 * 8 * 2 * 16 * 8 * 256
    assert peak.operations("sm80_int8", 3, 5) * 8 == 3 * 5 * peak.operations("sm80_xor", 1, 1)
    warpgroups = peak.THREADS // 128
    assert peak.operations("sm90_wgmma_int8", 3, 5) == 3 * 5 * warpgroups * 8 * 2 * 64 * 256 * 32
    assert all(peak.total(form, 4096) < 2**31 for form in peak.INSTRUCTIONS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--results", str(tmp_path)]) == 1
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
