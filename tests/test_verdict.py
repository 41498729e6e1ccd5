"""The verdict of mbu plan: its arithmetic, and that it measures the network that it is given."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_mbu import Plan, convert, eight_bits, make_plan, measured_front, prepare
from lightning_mbu.cli import main
from lightning_mbu.deploy.files import packed_size
from lightning_mbu.eight_bits import EIGHT_BITS, EightBits
from lightning_mbu.measured_front import FRONTS
from lightning_mbu.models import MBUNet
from lightning_mbu.verdict import judge, packed_bytes, predict_gain
from mbu_ops.backends import cpu_kernels

RIVAL = EightBits((3.0, 5.0), "a source")
RESULTS = Path(__file__).parents[1] / "docs/results"


@pytest.mark.parametrize(("float_ms", "packed_ms", "kept_ms", "share", "worth", "words"), [
    (100.0, (5.0, 10.0), 1.0, 0.9, "yes", "10.0x faster than float is predicted; eight bits gain 3x to 5x (a source)"),
    (100.0, (20.0, 30.0), 1.0, 0.9, "measure", "3.3x and 5.0x"),
    (100.0, (20.0, 40.0), 30.0, 0.9, "size only", "convolutions that stay float take 75%"),
    (100.0, (80.0, 90.0), 10.0, 0.4, "no", "only 40% of the multiply-adds"),
    (100.0, (20.0, 100 / RIVAL.gain[0] + 1), 1.0, 0.9, "size only", "between the convolutions"),
])  # fmt: skip
def test_the_slower_end_of_the_range_decides(float_ms, packed_ms, kept_ms, share, worth, words):
    found, why = judge(float_ms, packed_ms, kept_ms, share, RIVAL)
    assert found == worth and words in why


def test_what_eight_bits_gain_is_what_was_measured():
    """Float eager / the fastest int8 candidate of every network in the reports, by what it was held to."""
    gains = {}
    for report, best in (("cpu.json", "avx512vpopcnt"), ("amx/cpu.json", "amx_int8")):
        for entry in json.loads((RESULTS / report).read_text())["compare"]:
            medians = {name: found["median"] for name, found in entry["result"]["timings_ms"].items()}
            int8 = [ms for name, ms in medians.items() if name.startswith("int8")]
            if int8 and entry["job"]["isa"] in ("native", "avx2"):
                kernel = best if entry["job"]["isa"] == "native" else "avx2"
                gains.setdefault(kernel, []).append(medians["float eager"] / min(int8))
    for kernel, found in gains.items():
        # Two runs of the same benchmark differ by less.
        assert EIGHT_BITS[kernel].gain == pytest.approx((min(found), max(found)), rel=0.15)
    assert len(gains) == 3


@pytest.mark.parametrize(("kernel", "words"), [
    ("amx_int8", "14.3x (measured with AMX"), ("avx2", "2.4x (measured with AVX2"),
    ("avxvnni", "6.1x (measured with AVX-512 VNNI"), ("neon", "4x (modelled"),
])  # fmt: skip
def test_eight_bits_by_processor(kernel, words, monkeypatch):
    kernels = [SimpleNamespace(name="better", available=False), SimpleNamespace(name=kernel, available=True)]
    monkeypatch.setattr(eight_bits, "cpu_kernels", lambda: kernels)
    assert words in str(eight_bits.eight_bits())


def small_is_enough(file, isa):
    """Whether the default network is off the front of time there; None where it was not timed."""
    rows = csv.DictReader((RESULTS / file).read_text(encoding="utf-8").splitlines())
    streams = [f"{dtype} shortcuts + thermometer of 2" for dtype in ("int8", "bfloat16")]
    mine = [row for row in rows if row["row"] in streams and row["isa"] == isa]
    return not any(int(row["front, ms"]) for row in mine) if mine else None


@pytest.mark.parametrize(
    ("kernel", "isa"), [("amx_int8", "native"), ("avx512vpopcnt", "avx512"), ("avx2", "avx2")]
)
def test_where_the_default_network_lies_is_what_was_measured(kernel, isa):
    words = FRONTS[kernel]
    with_amx = [file.name for file in RESULTS.glob("front-*.csv") if "without-amx" not in file.name]
    found = {name.split("-")[1]: small_is_enough(name, isa) for name in with_amx}
    assert "on it on CamVid" in words and found["camvid"] is False
    assert re.search(r"not on nuclei\b", words) and found["nuclei"]
    assert ("and ISBI 2012, where" in words) == bool(found["isbi2012"])
    assert ("ISBI 2012 was not timed" in words) == (found["isbi2012"] is None)


@pytest.mark.parametrize("isa", ["native", "avx2"])
def test_without_amx_it_lies_there_too(isa):
    (file,) = RESULTS.glob("front-camvid-*-without-amx.csv")
    assert small_is_enough(file.name, isa) is False


@pytest.mark.parametrize(("kernel", "words"), [
    ("amx_int8", "with AMX: on it"), ("avx2", "with AVX2: on it"), ("avxvnni", "not known"),
    ("avx512bw", "not known"), ("neon", "not worth it for speed"), ("scalar", "not known"),
])  # fmt: skip
def test_front_by_processor(kernel, words, monkeypatch):
    kernels = [SimpleNamespace(name="better", available=False), SimpleNamespace(name=kernel, available=True)]
    monkeypatch.setattr(measured_front, "cpu_kernels", lambda: kernels)
    assert words in measured_front.measured_front()


def test_every_kernel_has_a_rival():
    kernels = (Path(__file__).parents[1] / "ops/csrc/cpu/kernels.inc").read_text()
    names = re.findall(r"^MBU_CPU_KERNEL\((\w+)", kernels, re.MULTILINE)
    assert set(FRONTS) < set(names), "no front is that of a kernel that is gone"
    assert set(EIGHT_BITS) == set(names) >= {kernel.name for kernel in cpu_kernels()}


def test_size_is_an_upper_bound_for_the_packed_weights():
    torch.manual_seed(0)
    model = MBUNet(width=32).eval()
    images = torch.zeros(1, 3, 32, 32)
    plan = make_plan(model, images)
    float_bytes = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    bound = packed_bytes(plan, float_bytes)
    size = packed_size(convert(prepare(model, plan), images))
    assert bound / 2 < size < bound + 10_000  # the file's header


def test_every_part_is_measured_and_the_model_stays_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=2), nn.BatchNorm2d(32),
        nn.ConvTranspose2d(32, 48, 2, stride=2), nn.Conv2d(48, 2, 1),
    )  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = make_plan(model, torch.zeros(1, 3, 32, 32))
    assert {layer.name for layer in plan.quantized} == {"2", "4"}
    verdict = predict_gain(model, plan)
    assert verdict.float_ms > verdict.kept_ms > 0 and verdict.one_bit_ms > 0
    assert verdict.packed_ms[0] == pytest.approx(verdict.kept_ms + verdict.one_bit_ms)
    assert verdict.packed_ms[1] >= verdict.packed_ms[0] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    share = verdict.packed_ms[1] / verdict.float_ms
    assert verdict.rivals["float"] == pytest.approx(min(1, share**0.5))
    assert verdict.rivals["float"] <= verdict.rivals["eight bits"] <= 1
    assert verdict.to_dict()["rivals"] == verdict.rivals and "in eight bits" in str(verdict)
    assert f"at width 16: {verdict.front}" in " ".join(str(verdict).split())
    assert "Verdict:" in str(verdict) and verdict.conditions["kernel"] in str(verdict)


def test_the_json_is_still_a_plan(capsys):
    arguments = ["plan", "lightning_mbu.models:MBUNet", "--size", "32", "--json"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert Plan.from_json(text).quantized and json.loads(text)["verdict"]["worth"] in (
        "yes",
        "measure",
        "size only",
        "no",
    )
    assert main([*arguments, "--no-verdict"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] is None


def test_wrong_threads_get_one_line(capsys):
    assert main(["plan", "lightning_mbu.models:MBUNet", "--size", "32", "--threads", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
