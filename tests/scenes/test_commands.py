"""mbu report and mbu ablation at their smallest; the recipes run in tests/test_recipes.py."""

import json

import pytest
import torch
from torch import nn

from lightning_mbu import convert, make_plan, prepare, save
from lightning_mbu.cli import main
from lightning_mbu.comparison import Comparison
from lightning_mbu.models import BiSegUNet
from lightning_mbu.scene_options import STUDIES, AblationSettings
from lightning_mbu.scenes import ablation, report, write_tree
from lightning_mbu.timing import Timing

SMALL = {"width": 16, "classes": 11}


def timings(model, packed, image, threads, repeats):
    """In the place of `compare`, which compiles for a minute and has tests of its own."""
    assert torch.isfinite(packed(image)).all() and model(image).shape == packed(image).shape
    times = {"float compiled": Timing((20.0,)), "packed compiled": Timing((4.0,))}
    return Comparison(times, {}, {}, {}, 1000, 100, {"threads": str(threads)})


def float_timings(models, image, threads, repeats):
    """In the place of `time_floats`, for the same reason."""
    assert all(torch.isfinite(model(image)).all() for model in models.values())
    return {name: Timing((3.0,)) for name in models}


def test_report_scores_counts_and_times(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "compare", timings)
    monkeypatch.setattr(report, "time_floats", float_timings)
    monkeypatch.setattr(report, "measure_peaks", lambda *_: (5_500_000, None))
    root = write_tree("camvid", tmp_path / "data", size=(32, 48), images=2)
    model = BiSegUNet(**SMALL)
    prepare(model, make_plan(model, torch.empty(1, 3, 32, 48), masked="none"))
    path = save(convert(model.eval(), torch.randn(1, 3, 32, 48)), tmp_path / "net.mbu")
    arguments = [
        "report",
        str(path),
        "--model",
        "lightning_mbu.models:BiSegUNet",
        "--arguments",
        json.dumps(SMALL),
    ]
    arguments += ["--dataset", "camvid", "--root", str(root), "--size", "32x48"]
    network = {"class_path": "lightning_mbu.models.BiSegUNet", "init_args": {**SMALL, "capacity_blocks": 1}}
    torch.save(
        {**network, "state_dict": BiSegUNet(**network["init_args"]).state_dict()}, tmp_path / "net.float8.pt"
    )
    arguments += ["--float", str(tmp_path / "net.float8.pt")]
    assert main([*arguments, "--output", str(tmp_path / "page.html")]) == 0
    found = json.loads((tmp_path / "page.json").read_text())
    assert 0 <= found["miou"] <= 1 and 0 <= found["accuracy"] <= 1 and len(found["classes"]) == 11
    assert found["float"]["one_bit"] == 0 < found["packed"]["one_bit"]
    assert found["packed"]["float_flops"] + found["packed"]["one_bit"] == found["float"]["float_flops"]
    assert found["speed"]["speedup"] == 5
    (rival,) = found["rivals"]
    assert rival["name"] == "float, net.float8" and rival["ms"] == 3 and 0 <= rival["score"] <= 1
    assert found["file_bytes"] == path.stat().st_size < 4 * found["float"]["float_parameters"]
    assert found["peak_bytes"] == {"float": 5_500_000, "packed": None}
    page = (tmp_path / "page.html").read_text()
    words = ("mIoU", "250.000", "bicyclist", "FLOPs, 64 one-bit as one", "5.500", "not known")
    assert all(word in page for word in words)
    assert "mIoU" in capsys.readouterr().out
    arguments[arguments.index(json.dumps(SMALL))] = json.dumps({**SMALL, "capacity_blocks": 0})
    assert main(arguments) == 2 and "capacity1" in capsys.readouterr().err


def test_memory_of_one_inference(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    wide = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 1, 1))
    image = torch.randn(1, 3, 512, 512)
    much, little = report.measure_peaks(wide, nn.Conv2d(3, 1, 1), image, threads=1)
    if much is None or little is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    inner = 64 * 4 * 512 * 512
    assert inner < much < 3 * inner and little < inner / 4

    def fail(model, **_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda model, **_: fail)
    assert report.measure_peaks(wide, wide, torch.randn(1, 3, 8, 8), threads=1) == (None, None)


def test_studies_are_those_of_the_paper():
    assert tuple(ablation.STUDIES) == STUDIES
    for variants in ablation.STUDIES.values():
        for options in variants.values():
            BiSegUNet(**SMALL, **options)
    with pytest.raises(ValueError, match="study='table1' is unknown"):
        ablation.ablate("table1", AblationSettings())


def test_ablation_trains_every_variant(tmp_path, monkeypatch, capsys):
    root = write_tree("camvid", tmp_path / "data", size=(32, 32), images=2)
    variants = {"none": {"capacity_blocks": 0}, "one": {"capacity_blocks": 1}}
    monkeypatch.setitem(ablation.STUDIES, "table9", variants)
    arguments = [
        "ablation",
        "table9",
        "--root",
        str(root),
        "--size",
        "32",
        "--epochs",
        "6",
        "--batch-size",
        "2",
    ]
    arguments += ["--seeds", "1", "--workers", "0", "--output", str(tmp_path / "found.json")]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    results = json.loads(printed.out)["results"]
    assert [x["name"] for x in results] == list(variants) and results[0]["flops"] < results[1]["flops"]
    assert all(len(x["miou"]) == 1 and 0 <= x["miou"][0] <= 1 for x in results)
    # What is finished is not trained again, for whichever study asks.
    monkeypatch.setattr(ablation, "_run", None)
    monkeypatch.setitem(ablation.STUDIES, "figure8", {"half": {"capacity_blocks": 1}})
    assert main(["ablation", "figure8", *arguments[2:], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["results"]
    assert again[0]["miou"] == results[1]["miou"]
    assert main([*arguments, "--json", "--only", "one"]) == 0
    assert [x["name"] for x in json.loads(capsys.readouterr().out)["results"]] == ["one"]
    assert main([*arguments, "--only", "two"]) == 2 and "no variant 'two'" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "none" / "found.json")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([*arguments, "--lr", "0.1"]) == 2 and "lr" in capsys.readouterr().err
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "table9: camvid at 32x32, width 16, 6 epochs, 1 seeds, one-bit" in shown


def test_ablation_from_float(tmp_path, monkeypatch, capsys):
    """The float network is trained first, and the one-bit one begins with its weights."""
    root = write_tree("camvid", tmp_path / "data", size=(32, 32), images=2)
    runs = []
    fit = ablation.L.Trainer.fit

    def record(trainer, module, data):
        before = {name: value.clone() for name, value in module.model.named_parameters()}
        fit(trainer, module, data)
        runs.append((before, {name: value.clone() for name, value in module.model.named_parameters()}))

    monkeypatch.setattr(ablation.L.Trainer, "fit", record)
    settings = AblationSettings(
        root=str(root), size=(32, 32), epochs=2, batch_size=2, seeds=1, workers=0, from_float=True,
        preset="default", only=("capacity blocks",),
    )  # fmt: skip
    (result,) = ablation.ablate("figure8", settings)
    (_, trained), (start, _) = runs
    assert all(torch.equal(trained[name], start[name]) for name in trained)
    assert 0 <= result.miou[0] <= 1
    shown = ablation.table("figure8", [result], settings)
    assert "one-bit, preset default, from float" in shown.title
