import json

import pytest

from lightning_mbu import Plan
from lightning_mbu.cli import find_model, main
from lightning_mbu.models import MBUNet


def test_plan_as_table_and_as_json(capsys):
    assert main(["plan", "lightning_mbu.models:MBUNet", "--size", "64"]) == 0
    assert "multiply-adds become one-bit" in capsys.readouterr().out
    assert main(["plan", "smp:Unet/resnet34", "--size", "64", "--masked", "all", "--json"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert {layer.kind for layer in plan.quantized} == {"masked"}


def test_doctor_names_the_kernels(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "scalar" in {kernel["name"] for kernel in found["kernels"]}
    assert sum(kernel["selected"] for kernel in found["kernels"]) == 1
    assert main(["doctor"]) == 0
    assert "No CUDA kernels" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, words", [
    (["plan", "nonsense"], "names no model"), (["plan", "no.such.module:f"], "No module named"),
    (["plan", "smp:Nope/resnet34"], "Nope"), (["plan", "lightning_mbu.models:MBUNet", "--channels", "4"], "does not run on an example"),
    (["plan", "lightning_mbu.models:MBUNet", "--masked", "2"], "between 0 and 1"),
    (["demo", "--size", "100"], "must be a multiple of 16"), (["demo", "--data", "no-such-folder"], "no-such-folder"),
])  # fmt: skip
def test_a_users_mistake_gets_one_line(arguments, words, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["demo", "--help"],
        ["plan", "--help"],
        ["bench", "--help"],
        ["doctor", "--help"],
    ],
)
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0 and "usage: mbu" in capsys.readouterr().out


def test_every_demo_option_is_described(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    for line in capsys.readouterr().out.splitlines():
        assert not line.strip().endswith("(default: None)") or len(line) > 40


def test_model_names():
    assert isinstance(find_model("lightning_mbu.models:MBUNet"), MBUNet)
