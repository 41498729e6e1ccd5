import argparse
import json
import subprocess
import sys

import pytest

from lightning_mbu import Plan
from lightning_mbu.cli import _parser, main
from lightning_mbu.model_names import find_model
from lightning_mbu.models import MBUNet

COMMANDS = next(
    list(action.choices) for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)
)


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
    (["plan", "Nope/resnet34"], "has no 'Nope'; it has"), (["plan", "Unet/resnet43"], "Wrong encoder name `resnet43`"),
    (["plan", "no_file.py:build"], "there is no file no_file.py"), (["plan", "lightning_mbu.models:UNet"], "UNet"),
    (["plan", "lightning_mbu.models:MBUNet", "--channels", "4"], "does not run on an example"),
    (["plan", "lightning_mbu.models:MBUNet", "--size", "100"], "does not run on an example"),
    (["plan", "lightning_mbu.models:MBUNet", "--masked", "2"], "between 0 and 1"),
    (["plan", "lightning_mbu.models:MBUNet", "--order", "up"], "order='up' is unknown"),
    (["plan", "lightning_mbu.models:MBUNet", "--arguments", '{"widht": 8}'], "widht"),
    (["summary", "nonsense"], "names no model"), (["summary", "pyproject.toml"], "not a packed model"),
    (["summary", "lightning_mbu.models:MBUNet", "--channels", "0"], "at least 1"),
    (["train", "nothing"], "there is no recipe 'nothing'. Take one of ade20k"), (["train", "no_file.py"], "there is no recipe"),
    (["export", "no-such.mbu", "net.pt2"], "there is no file no-such.mbu"),
    (["export", "no-such.mbu", "no/net.pt2"], "the folder no does not exist"),
    (["convert", "no-such.ckpt"], "there is no file or folder no-such.ckpt"),
    (["verify", "no-such.ckpt", "no-such.mbu", "no-such.png"], "there is no file or folder no-such.png"),
    (["bench", "lightning_mbu.models:MBUNet", "--threads", "0"], "must all be above 0"),
    (["bench", "--plot", "plot.gif"], "must end in .svg or .png"), (["bench", "--json", "no/x.json"], "folder no does not exist"),
    (["study", "nothing", "--data", "x"], "study 'nothing' is unknown"), (["study", "pareto", "--data", "no-such"], "no-such"),
    (["sweep", "--data", "no-such", "--set", "lr"], "lr"), (["sweep", "--data", "no-such", "--set", "lr=1:2"], "no-such"),
    (["report", "no.mbu", "--model", "Unet", "--dataset", "camvid", "--root", "x", "--size", "8"], "names no model"),
    (["report", "no.mbu", "--model", "Unet", "--dataset", "kitti", "--root", "x", "--size", "8"], "'kitti' is unknown"),
    (["ablation", "table9", "--root", "no-such"], "no-such is not a folder"),
    (["demo", "--size", "100"], "must be a multiple of 16"), (["demo", "--data", "no-such-folder"], "no-such-folder"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd:UserWarning")
def test_a_users_mistake_gets_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize("arguments, words", [
    ([], "required: command"), (["plan"], "required: model"), (["nothing"], "invalid choice: 'nothing'"),
    (["plan", "x", "--masked", "most"], "'most' is no share between 0 and 1"),
    (["plan", "x", "--arguments", "width=8"], "is no JSON"), (["plan", "x", "--arguments", "[1]"], "is no JSON object such as"),
    (["plan", "x", "--size", "big"], "'big' is no image size"), (["predict", "x", "y", "--size", "0"], "'0' is no image size"), (["ablation", "table1", "--root", "x"], "invalid choice"),
    (["--print-completion", "fish shell"], "invalid choice"), (["bench", "x", "--size", "0"], "'0' is no image size"),
    (["bench", "x", "--size", "64x"], "'64x' is no image size"), (["bench", "x", "--size", "1x2x3"], "'1x2x3' is no image size"),
])  # fmt: skip
def test_wrong_usage_gets_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and words in error and "Traceback" not in error


def test_every_command_has_help_with_an_example_that_parses(capsys):
    assert set(COMMANDS) >= {
        "demo", "plan", "summary", "train", "convert", "verify", "bench", "sweep", "study", "report", "export",
        "predict", "doctor",
    }  # fmt: skip
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        shown = capsys.readouterr().out
        example = " ".join(shown.partition("Example: mbu ")[2].split())
        assert stopped.value.code == 0 and "--json" in shown and example.startswith(name)
        assert "(default: None)" not in shown and "(default: False)" not in shown
        options = (
            next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
            .choices[name]
            ._actions
        )
        assert all(option.help for option in options), name
        assert isinstance(_parser().parse_args(example.split()), argparse.Namespace)


def test_completion_knows_commands_and_options(capsys):
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh"):
        with pytest.raises(SystemExit) as stopped:
            main(["--print-completion", shell])
        script = capsys.readouterr().out
        assert (
            stopped.value.code == 0 and all(name in script for name in COMMANDS) and "--no-verdict" in script
        )
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    check = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert check.returncode == 0, check.stderr


def test_completion_says_what_it_needs(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", "bash"])
    assert stopped.value.code == 2 and "lightning-mbu[completion]" in capsys.readouterr().err


def test_a_reader_that_goes_away_gets_no_traceback():
    command = f"{sys.executable} -m lightning_mbu train --json | head -c 20; {sys.executable} -m lightning_mbu train | head -n 1"
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert "ade20k" in run.stdout and not run.stderr


def test_train_lists_and_runs_recipes(tmp_path, capsys):
    assert main(["train", "--json"]) == 0
    assert {"carvana", "isic", "nuclei", "camvid"} <= set(json.loads(capsys.readouterr().out))
    (tmp_path / "own.py").write_text("import sys\nprint('ran', sys.argv[1:])\nraise SystemExit(3)")
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(tmp_path / "own.py"), "--epochs", "2", "--json"])
    assert stopped.value.code == 3 and "ran ['--epochs', '2', '--json']" in capsys.readouterr().out


def test_summary_of_a_float_and_of_a_one_bit_network(capsys):
    arguments = [
        "summary",
        "lightning_mbu.models:MBUNet",
        "--arguments",
        '{"width": 8}',
        "--size",
        "32",
        "--json",
    ]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["one_bit_macs"] == 0
    assert main([*arguments, "--one-bit"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {layer["bits"] for layer in layers} == {32, 2, 1} and any(layer["zeros"] > 0.2 for layer in layers)


@pytest.mark.filterwarnings("ignore:only .* become one-bit:UserWarning")
def test_linear_layers_on_request(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.c = nn.Conv2d(3, 32, 3), nn.Linear(32, 32), nn.Conv2d(32, 1, 1)\n"
        "    def forward(self, x):\n"
        "        return self.c(self.b(self.a(x).movedim(1, -1)).movedim(-1, 1))\n"
    )
    model = [f"{tmp_path}/net.py:Net", "--size", "16", "--json", "--linear"]
    assert main(["plan", *model, "--no-verdict"]) == 0
    assert [layer.name for layer in Plan.from_json(capsys.readouterr().out).quantized] == ["b"]
    assert main(["summary", *model, "--one-bit"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert [(layer["role"], layer["bits"] < 32) for layer in layers] == [
        ("stem", False),
        ("linear", True),
        ("head", False),
    ]


def test_a_mistake_that_lightning_reports_gets_one_line_and_a_bug_its_traceback(monkeypatch, capsys):
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    def fail(error):
        def build():
            raise error

        monkeypatch.setattr("lightning_mbu.models.MBUNet", build)
        return main(["summary", "lightning_mbu.models:MBUNet"])

    assert fail(MisconfigurationException("no such strategy")) == 2
    assert capsys.readouterr().err.strip() == "mbu summary: no such strategy"
    with pytest.raises(AssertionError):
        fail(AssertionError("ours"))
    monkeypatch.setenv("MBU_TRACEBACK", "1")
    with pytest.raises(ValueError, match="shown"):
        fail(ValueError("shown"))


def test_model_names(tmp_path):
    assert isinstance(find_model("lightning_mbu.models:MBUNet"), MBUNet)
    (tmp_path / "net.py").write_text("from lightning_mbu.models import MBUNet as build\n")
    assert isinstance(find_model(f"{tmp_path}/net.py:build", {"width": 8}), MBUNet)
    same = find_model("Unet/resnet18", {"classes": 4}), find_model("smp:Unet/resnet18", {"classes": 4})
    assert same[0].segmentation_head[0].out_channels == 4 and type(same[0]) is type(same[1])


def test_bench_prints_json_or_writes_it():
    parse = _parser().parse_args
    assert parse(["bench", "mbunet", "--json"]).json == "-"
    assert parse(["bench", "mbunet", "--json", "x.json"]).json == "x.json"
