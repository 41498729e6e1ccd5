"""`mbu bench`: jobs, processes, what is listed and what is refused, tables, files."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from lightning_mbu.bench import command, show, suite
from lightning_mbu.bench.child import Job, JobFailed, run_job
from lightning_mbu.bench.isa import excluded, has_vnni, variables
from lightning_mbu.bench.models import ClassicUNet, settle, twins
from lightning_mbu.bench.rivals import INT8_TOLERANCE, int8_fx, require, rivals
from lightning_mbu.bench.threads import measure_threads
from lightning_mbu.benchmark import Rival, compare
from lightning_mbu.cli import main
from lightning_mbu.comparison import Comparison
from lightning_mbu.deploy import verify
from lightning_mbu.folding import fold_transposed
from lightning_mbu.models import MBUNet
from lightning_mbu.prepare import quantized_layers
from lightning_mbu.timing import Timing


def tiny() -> nn.Module:
    """Found by name from the processes that the tests start; its middle convolution becomes one-bit."""
    convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 8), (8, 1))]
    return nn.Sequential(
        convolutions[0], nn.BatchNorm2d(8), nn.ReLU(),
        convolutions[1], nn.BatchNorm2d(8), nn.ReLU(), convolutions[2],
    )  # fmt: skip


TINY = "tests.test_bench:tiny"
QUIET = Console(file=io.StringIO())


def comparison(**times: float) -> Comparison:
    timings = {name.replace("_", " "): Timing((ms, ms * 1.1)) for name, ms in times.items()}
    return Comparison(
        timings, {"float compiled": 1e-5}, {}, {"int8 OpenVINO": "ImportError: nncf not installed"}, 3200, 100,
        {"processor": "one", "repeats": "2, interleaved"},
    )  # fmt: skip


def compared(job: Job, report=None, turns=None) -> dict:
    return comparison(float_eager=9.0, float_compiled=6.0, packed_eager=2.0, packed_compiled=1.5).to_dict()


def measured(job: Job, report, turns) -> dict:
    report("a step")
    if job.kind == "memory":
        peak = None if job.candidate == "packed compiled" else 5_000_000
        return {"candidate": job.candidate, "size": job.size, "peak_bytes": peak, "weight_bytes": 100,
                "ms": 2.0, "ns_per_pixel": 30.0}  # fmt: skip
    if job.kind == "threads":
        return {"states": [{"state": "idle", "threads": 2, "one_ms": 40.0, "many_ms": 22.0, "speedup": 1.8}]}
    if job.kind == "layers":
        layer = {"name": "down1.conv1", "shape": "3x3 64->128 @ 64x64", "macs": 300_000_000, "ms": 0.5,
                 "quartiles_ms": [0.4, 0.6], "rate": 600.0, "share": 0.6, "output": "bits", "weights": "masked"}  # fmt: skip
        return {
            "kernel": "scalar",
            "ceilings": {"masked": 1000.0, "binary": 1100.0},
            "network_ms": 2.0,
            "layers": [layer],
        }
    return compared(job)


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("channels", [(16, 16), (16, 8)])
def test_folding_of_transposed_convolutions(channels):
    model = nn.Sequential(
        nn.ConvTranspose2d(*channels, 2, stride=2), nn.BatchNorm2d(channels[1]), nn.ReLU(),
        nn.Conv2d(channels[1], 4, 1), nn.BatchNorm2d(4),
    )  # fmt: skip
    x = torch.randn(2, 16, 8, 8)
    model(x * 3 + 1)  # statistics that are not 0 and 1
    model.eval()
    folded = fold_transposed(model, x)
    assert [type(m) for m in folded.modules()].count(nn.BatchNorm2d) == 1
    torch.testing.assert_close(folded(x), model(x))
    assert isinstance(model[1], nn.BatchNorm2d)


def test_compiled_float_network_equals_eager_with_real_statistics():
    # Fails where torch.compile folds the batch norm behind a transposed convolution by itself.
    model = settle(nn.Sequential(nn.ConvTranspose2d(3, 3, 2, stride=2, bias=False), nn.BatchNorm2d(3)), 3)
    model[1].running_var.copy_(torch.tensor([0.5, 2.0, 8.0]))
    result = compare(model, nn.Identity(), torch.randn(1, 3, 8, 8), repeats=1, bfloat16=False, min_time_s=0)
    assert result.differences["float compiled"] < 1e-5


def test_settled_networks_do_not_fade():
    torch.manual_seed(0)
    fresh = MBUNet(width=8).eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        spread = fresh(x).std() / fresh(x).abs().max()
        network = settle(fresh, 3)
        settled = network(x).std() / network(x).abs().max()
    assert 4 * spread < settled
    assert not network.training and {m.momentum for m in network.modules() if hasattr(m, "momentum")} == {0.1}


def test_classic_unet_is_the_one_everyone_means():
    assert 30e6 < sum(p.numel() for p in ClassicUNet().parameters()) < 32e6
    assert ClassicUNet(width=4)(torch.zeros(1, 3, 32, 48)).shape == (1, 1, 32, 48)


def test_rivals_that_cannot_run_or_differ_are_listed(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    x = torch.randn(1, 3, 8, 8)

    def missing(*_):
        require("no_such_package")

    wrong = Rival("wrong", lambda model, example, threads: lambda: model(example) + 1, 1e-3)
    same = Rival("same", lambda model, example, threads: lambda: model(example), 0.0)
    result = compare(
        nn.Conv2d(3, 2, 1), nn.Identity(), x, repeats=1, bfloat16=False, min_time_s=0,
        rivals=[Rival("absent", missing, 1), wrong, same],
    )  # fmt: skip
    assert "no_such_package not installed" in result.not_run["absent"]
    assert "differs from float32 by" in result.not_run["wrong"]
    assert "same" in result.timings and "wrong" not in result.timings
    assert len({rival.name for rival in rivals()}) == 7


# PyTorch says so of every network with a concat; the comparison with the float network is what counts.
@pytest.mark.filterwarnings("ignore:All inputs of this cat operator")
def test_int8_by_pytorch_follows_the_float_network():
    model, x = settle(MBUNet(width=8), 3), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, found = model(x), int8_fx(model, x, 1)()
    gap = (found - expected).abs().max() / expected.abs().max()
    assert 0 < gap < INT8_TOLERANCE


def test_absent_blocks_of_a_network(monkeypatch):
    monkeypatch.setattr("lightning_mbu.bench.models.find_model", lambda name, arguments: MBUNet(width=8))
    _, one_bit, packed = twins("mbunet", 3, mask_blocks=(8, 8), block_density=0.25)
    present = [
        float((layer.quantized_weight() != 0).float().mean()) for _, layer in quantized_layers(one_bit)
    ]
    assert all(0.2 < share < 0.3 for share in present)
    x = torch.randn(1, 3, 64, 64)
    assert verify(one_bit, packed, x).ok


def test_standard_set_and_grid(monkeypatch):
    monkeypatch.setattr("lightning_mbu.bench.suite.instruction_sets", lambda: ["avx2", "avx512f"])
    jobs = suite.standard_jobs(Job("compare", ""))
    compared = [job for job in jobs if job.kind == "compare"]
    assert [job.isa for job in compared] == ["native"] * 8 + ["avx2"] * 2
    assert {job.size for job in compared if job.model == "mbunet"} == {"64x64", "256x256", "512x512"}
    assert sum(job.kind == "threads" for job in jobs) == 1
    assert {job.size for job in jobs if job.kind == "memory"} == {"256x256", "1024x1024"}
    grid = suite.grid_jobs(
        Job("compare", ""), ["a", "b"], ["64x64", "32x128"], [1, 2], layers=True, memory=True
    )
    assert [[job.kind for job in grid].count(kind) for kind in ("compare", "layers", "memory")] == [8, 4, 8]
    assert all(job.threads == 1 for job in grid if job.kind != "compare")


def test_results_tables_page_and_figure():
    def run(job, report, turns):
        if job.model == "unet-classic":
            raise JobFailed("MemoryError: no")
        return measured(job, report, turns)

    results = suite.run_jobs(suite.standard_jobs(Job("compare", "")), QUIET, run)
    assert results == json.loads(json.dumps(results))
    assert set(results) == {"schema", "command", "conditions", "compare", "threads", "layers", "memory"}
    for kind in ("compare", "layers", "memory"):
        for entry in results[kind]:
            assert Job(**entry["job"]).title == entry["title"]
            assert ("result" in entry) != ("failed" in entry)
    output = io.StringIO()
    show.show(results, Console(file=output, width=80))
    page = show.markdown(results, "cpu.svg")
    for text in (output.getvalue(), page):
        for words in (
            "MemoryError: no",
            "not run:",
            "down1.conv1",
            "60%",
            "not known",
            "4.00x",
            "mbunet",
            "How many times",
        ):
            assert words in text, words
    assert "| packed compiled | 1.6 | 1.5 to 1.6 | 4.00x |  |" in page
    pytest.importorskip("matplotlib", exc_type=ImportError)
    from lightning_mbu.bench import plot

    figure = plot.draw(results, "svg").decode()
    assert "down1.conv1" in figure and "ceiling of the kernel" in figure and "mbunet, 512x512" in figure


def test_nothing_measured_is_an_error():
    def run(job, report, turns):
        raise JobFailed("ImportError: no such model")

    with pytest.raises(ValueError, match="nothing could be measured.*no such model"):
        suite.run_jobs([Job("compare", "a")], QUIET, run)


def test_a_whole_job_in_a_process_of_its_own(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    steps: list[str] = []
    job = Job("compare", TINY, size="32x64", repeats=2, budget_s=1.0, rivals=False)
    result = Comparison.from_dict(run_job(job, steps.append))
    assert {"float eager", "float compiled", "packed eager", "packed compiled"} <= set(result.timings)
    assert "verifying" in steps and steps[-1] == "timing"
    assert result.conditions["threads"] == "1"


def test_processes_that_fail_say_why(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(JobFailed, match="'nonsense' names no model"):
        run_job(Job("compare", "nonsense"))
    with pytest.raises(JobFailed, match="unknown CPU kernel 'nope'"):
        run_job(Job("compare", TINY, size="32x64", kernel="nope"))


def test_instruction_sets(monkeypatch):
    monkeypatch.setattr("lightning_mbu.bench.isa.instruction_sets", lambda: ["avx2", "avx512f", "amx_int8"])
    assert variables("native") == {} and excluded("native") == {}
    assert variables("avx512", "scalar")["MBU_CPU_KERNEL"] == "scalar"
    assert "amx_int8" in excluded("avx512")["ONNX Runtime"]
    assert "avx512f" in excluded("avx2")["ONNX Runtime"]
    assert not has_vnni()
    monkeypatch.setattr("lightning_mbu.bench.isa.instruction_sets", lambda: ["avx2", "avx512_vnni"])
    assert has_vnni()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not has_vnni()
    monkeypatch.setattr("lightning_mbu.bench.isa.instruction_sets", lambda: ["avx2"])
    assert set(excluded("avx2")) == {"bfloat16"}


def test_command_writes_all_files_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mbu.bench.suite.run_jobs.__defaults__", (measured,))
    output = io.StringIO()
    asked = options("unet-classic", TINY, "--layers", "--memory", "--json", str(tmp_path / "r.json"))
    assert command.run(asked, Console(file=output, width=80)) == 0
    for title in ("unet-classic, 256x256", "tiny, 256x256"):
        assert f"Layers: {title}" in output.getvalue()
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == suite.SCHEMA

    def refusing(job, report, turns):
        raise ValueError("'packed compiled' differs from the eager network")

    monkeypatch.setattr("lightning_mbu.bench.suite.run_jobs.__defaults__", (refusing,))
    with pytest.raises(ValueError, match="differs from the eager network"):
        command.run(options(TINY, "--json", str(tmp_path / "refused.json")), QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("arguments, words", [
    (["mbunet", "--json", "no/such/folder/r.json"], "does not exist"), (["mbunet", "--plot", "r.bmp"], "end in .svg or .png"),
    (["mbunet", "--threads", "0"], "must all be above 0"), (["mbunet", "--planes", "0"], "must all be above 0"), (["mbunet", "--budget", "0"], "must all be above 0"),
    (["--arguments", '{"width": 8}'], "needs the model"), (["mbunet", "--block-density", "0"], "must be a share of the blocks"),
])  # fmt: skip
def test_wrong_options_are_found_before_the_work(arguments, words, capsys):
    assert main(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_threads_are_timed_idle_and_with_a_core_taken():
    before = torch.get_num_threads()
    try:
        states = measure_threads(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 32, 32), threads=2, repeats=2)
    finally:
        torch.set_num_threads(before)
    assert states[0]["state"] == "idle" and all(state["many_ms"] > 0 for state in states)
    rows = show.thread_rows({"states": states})
    assert len(rows) == len(states) and rows[0][:2] == ["idle", "2"]
