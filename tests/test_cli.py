import json

import pytest

from lightning_mbu import Plan
from lightning_mbu.cli import main
from lightning_mbu.model_names import find_model
from lightning_mbu.models import MBUNet


def test_plan_as_table_and_as_json(capsys):
    assert main(["plan", "lightning_mbu.models:MBUNet", "--size", "64"]) == 0
    assert "multiply-adds become one-bit" in capsys.readouterr().out
    assert main(["plan", "smp:Unet/resnet34", "--size", "64", "--masked", "all", "--json"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert {layer.kind for layer in plan.quantized} == {"masked"}


def test_doctor_tests_the_kernels_and_says_why_there_is_no_gpu(capsys, monkeypatch):
    monkeypatch.setenv("MBU_CUDA_DRIVER", "/nowhere/libcuda.so")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kernels = {kernel["name"]: kernel for kernel in found["cpu_kernels"]}
    assert kernels["scalar"]["self_test"] is True
    assert all(
        kernel["self_test"] is kernel["available"] or not kernel["available"] for kernel in kernels.values()
    )
    assert sum(kernel["selected"] for kernel in kernels.values()) == 1
    assert found["gpus"] == [] and "could not be opened" in found["driver"]["why"]
    assert main(["doctor"]) == 0
    assert "No GPU is used: the NVIDIA driver could not be opened" in capsys.readouterr().out


def test_doctor_lists_the_library(capsys):
    assert main(["doctor", "--library", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"pack_pixels__sm75", "conv2d_64x64_bits_v4__sm80_xor"} <= {
        kernel["name"] for kernel in found["kernels"]
    }
    assert main(["doctor", "--library"]) == 0
    assert "max_pool2d_v4__sm75" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, words", [
    (["plan", "nonsense"], "names no model"), (["plan", "no.such.module:f"], "No module named"),
    (["plan", "smp:Nope/resnet34"], "Nope"), (["plan", "lightning_mbu.models:MBUNet", "--channels", "4"], "does not run on an example"),
    (["plan", "lightning_mbu.models:MBUNet", "--masked", "2"], "between 0 and 1"),
    (["export", "no-such.mbu", "net.pt2"], "there is no file no-such.mbu"),
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
        ["export", "--help"],
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
