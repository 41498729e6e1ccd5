"""The verdict of mbu plan: its arithmetic, and that it measures the network that it is given."""

import json

import pytest
import torch
from torch import nn

from lightning_mbu import Plan, convert, make_plan, prepare
from lightning_mbu.cli import main
from lightning_mbu.deploy.files import packed_size
from lightning_mbu.models import MBUNet
from lightning_mbu.verdict import EIGHT_BIT_GAIN, judge, packed_bytes, predict_gain


@pytest.mark.parametrize(("float_ms", "packed_ms", "kept_ms", "share", "worth", "words"), [
    (100.0, (5.0, 10.0), 1.0, 0.9, "yes", "10.0x"),
    (100.0, (20.0, 40.0), 30.0, 0.9, "size only", "convolutions that stay float take 75%"),
    (100.0, (80.0, 90.0), 10.0, 0.4, "no", "only 40% of the multiply-adds"),
    (100.0, (20.0, 100 / EIGHT_BIT_GAIN + 1), 1.0, 0.9, "size only", "between the convolutions"),
])  # fmt: skip
def test_the_slower_end_of_the_range_decides(float_ms, packed_ms, kept_ms, share, worth, words):
    found, why = judge(float_ms, packed_ms, kept_ms, share)
    assert found == worth and words in why


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
    assert "Verdict:" in str(verdict) and verdict.conditions["kernel"] in str(verdict)


def test_the_json_is_still_a_plan(capsys):
    arguments = ["plan", "lightning_mbu.models:MBUNet", "--size", "32", "--json"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert Plan.from_json(text).quantized and json.loads(text)["verdict"]["worth"] in (
        "yes",
        "size only",
        "no",
    )
    assert main([*arguments, "--no-verdict"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] is None


def test_wrong_threads_get_one_line(capsys):
    assert main(["plan", "lightning_mbu.models:MBUNet", "--size", "32", "--threads", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
