import csv
import json
import random
import re
from dataclasses import replace
from importlib.util import find_spec
from itertools import combinations

import numpy as np
import pytest
import torch
from rich.console import Console

from lightning_mbu.cli import main
from lightning_mbu.explore import results
from lightning_mbu.explore.data import CAMVID_CLASSES, IGNORE, read_data
from lightning_mbu.explore.plans import block_plan, ranked_blocks, uniform_plan
from lightning_mbu.explore.rows import chosen_blocks, ingredients, pareto, repeat, table1
from lightning_mbu.explore.settings import StudySettings
from lightning_mbu.explore.shapley import chains, named_subset, shapley_values, subset_name
from lightning_mbu.explore.store import open_study, run_rows
from lightning_mbu.explore.training import Experiment, evaluate, loader, predicted, rate, run
from lightning_mbu.models import MBUNet


def test_camvid(camvid):
    data = read_data(camvid, 48)
    assert (data.name, data.classes, data.turns) == ("camvid", CAMVID_CLASSES, False)
    assert data.splits["train"].images.shape == (3, 48, 64, 3)
    assert set(np.unique(data.splits["val"].labels)) == {0, IGNORE}
    assert [len(data.splits[split].images) for split in ("train", "val", "test")] == [3, 2, 2]
    (camvid / "CamVid/val/1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"val/1\.png does not exist"):
        read_data(camvid, 48)


def test_isbi_in_the_order_of_the_stack(isbi):
    data = read_data(isbi, 32)
    assert {split: len(part.images) for split, part in data.splits.items()} == {
        "train": 8,
        "val": 2,
        "test": 2,
    }
    last = data.splits["test"].labels[-1]
    assert last.mean() == pytest.approx(0.25, abs=0.05) and last[0, round(14 * 0.8)] == 1
    assert data.splits["train"].images.shape[1:] == (32, 32, 3)


def test_nuclei_and_folders_that_hold_nothing(nuclei, tmp_path):
    assert str(read_data(nuclei, 16)) == "nuclei, 16x16: 4 train, 1 val, 2 test"
    with pytest.raises(ValueError, match="multiple of 16"):
        read_data(nuclei, 20)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        read_data(tmp_path / "nothing")


def test_augmentation_turns_image_and_label_together(nuclei):
    data = read_data(nuclei, 16)
    images, labels = next(iter(loader(data, "train", 4, augment=True)))
    shapes = (images.shape, images.dtype, labels.shape, labels.dtype)
    assert shapes == ((4, 3, 16, 16), torch.float32, (4, 16, 16), torch.int64)
    bright = torch.stack([x.mean(0) for x in images])
    assert (bright[labels == 1].mean() - bright[labels == 0].mean()) > 0.5


def test_scores_of_a_perfect_and_of_a_constant_network(camvid):
    data = read_data(camvid, 48)
    batches = loader(data, "val", 2)
    table = {tuple(x.flatten()[:9].tolist()): y for x, y in batches.dataset}

    def perfect(images):
        found = torch.stack([table[tuple(x.flatten()[:9].tolist())] for x in images])
        return torch.nn.functional.one_hot(found.clamp(max=10), 11).permute(0, 3, 1, 2).float()

    assert evaluate(perfect, batches, 11) == {"dice": 1.0, "iou": 1.0}
    assert predicted(torch.tensor([[[[-1.0, 1.0]]]])).tolist() == [[[0, 1]]]


def test_plans_of_studies():
    model, x = MBUNet(width=8), torch.empty(1, 3, 32, 32)
    blocks = ranked_blocks(model, x)
    assert len(blocks) == 12
    assert {layer.kind for layer in uniform_plan(model, x, "int4").layers} == {"float", "int4"}
    plan = {
        layer.name: layer.kind for layer in block_plan(model, x, {"up1": "float", "down1": "masked"}).layers
    }
    assert plan["up1.transpose"] == "float" and plan["up1.block.conv1"] == "binary"
    assert plan["down1.conv2"] == "masked" and plan["stem.conv2"] == "masked"
    with pytest.raises(ValueError, match="do not exist"):
        block_plan(model, x, {"nose": "masked"})
    with pytest.raises(ValueError, match="kinds .* are unknown"):
        uniform_plan(model, x, "int3")


def test_shapley_values_of_games_with_a_known_answer():
    players = ("a", "b", "c")
    subsets = [frozenset(c) for n in range(4) for c in combinations(players, n)]
    additive = {s: sum({"a": 1, "b": 2, "c": 4}[p] for p in s) for s in subsets}
    assert shapley_values(additive, players) == {"a": 1, "b": 2, "c": 4}
    # Glove game: one left glove (a), two right ones; a pair is worth 1.
    glove = {s: float("a" in s and len(s) > 1) for s in subsets}
    assert shapley_values(glove, players) == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})


def test_chains_reach_every_depth_and_names_read_back():
    players = tuple("abcdef")
    found = chains(players, 5, 3, random.Random(0))
    assert found[0] == frozenset() and len(set(found)) == len(found)
    assert {len(s) for s in found} == {0, 1, 2, 3}
    assert all(named_subset(subset_name(s, players), players) == s for s in found)


def test_rows():
    base = Experiment(epochs=1)
    assert [e.layers for e in table1(base).values()] == ["float", "int8", "int4", "int2", "planned", "binary"]
    assert list(repeat(table1(base), 2))[6:8] == ["full precision #1", "int8 weights #1"]
    both = ingredients(base, ("shortcuts + ApproxSign + RPReLU",))["shortcuts + ApproxSign + RPReLU"]
    assert both.shortcuts and both.options == {"estimator": "approx_sign", "shift": True}
    assert len(ingredients(base)) > 20 and ingredients(base)["float"].layers == "float"
    with pytest.raises(ValueError, match="no ingredient .luck"):
        ingredients(base, ("luck",))
    subsets = chosen_blocks(base, ("x", "y"), 4, 1)
    assert subsets["10"].layers == {"x": "masked"} and subsets["00"].layers == {}
    rows = pareto(base, {0.5: ("x", "y"), 0.0: ("y", "x")}, (0, 1, 2))
    assert list(rows)[-4:] == ["0 of 2 masked", "1 of 2 masked", "2 of 2 masked", "1 of 2 masked, w_op 0"]


def test_learning_rate_warms_up_and_falls_to_zero():
    assert [rate(p, 0.0) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [rate(p, 0.5) for p in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.426777, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize("help", ["taught", "started"])
def test_a_network_learns_from_its_float_twin(help, isbi, one_thread):
    data = read_data(isbi, 16)
    base = Experiment(width=8, epochs=1, batch_size=4)
    alone, helped = (run(x, data).model.state_dict() for x in (base, replace(base, **{help: True})))
    assert not torch.equal(alone["head.weight"], helped["head.weight"])


def test_a_stopped_study_goes_on_and_does_nothing_twice(tmp_path):
    console, calls = Console(quiet=True), []

    def row(name):
        def measure(report):
            report(0.5)
            calls.append(name)
            if name == "b" and calls.count("b") == 1:
                raise KeyboardInterrupt
            return {"value": float(ord(name)), "test/dice": 0.5}

        return measure

    rows = {name: row(name) for name in "abc"}
    with pytest.raises(KeyboardInterrupt):
        run_rows(open_study("s", tmp_path, None, direction="maximize"), rows, console)
    # A second process sees the same record through the same storage.
    found = run_rows(open_study("s", tmp_path, None, direction="maximize"), rows, console)
    assert calls == ["a", "b", "b", "c"] and [found[name]["value"] for name in "abc"] == [97, 98, 99]


def test_results_have_mean_and_spread(tmp_path):
    runs = {
        "x #0": {"value": 0.5, "zeros": {"a": 1}},
        "x #1": {"value": 0.7, "zeros": {}},
        "y #0": {"value": 0.1},
    }
    first, second = results.by_row(runs)
    assert first["value"] == pytest.approx(0.6) and first["value ±"] == pytest.approx(0.1 * 2**0.5)
    assert second == {"row": "y", "seeds": 1, "value": 0.1, "value ±": None}
    json_file, csv_file = results.write(tmp_path, "t", {"epochs": 1}, runs)
    assert json.loads(json_file.read_text())["runs"] == runs
    assert [line["row"] for line in csv.DictReader(csv_file.read_text().splitlines())] == ["x", "y"]


def test_rows_are_dots_with_their_spread(tmp_path):
    pytest.importorskip("matplotlib")
    runs = {"float #0": {"s": 0.5}, "plain #0": {"s": 0.25}, "plain #1": {"s": 0.75}, "broken #0": {}}
    (file,) = results.plot_rows(tmp_path, "rows", results.by_row(runs), "s")
    text = file.read_text()
    assert text.index(">float<") < text.index(">plain<") and "broken" not in text
    # A dot for each row; a bar with its two ends for the one that has a spread.
    bars = re.findall(r'id="LineCollection_\d+"', text)
    assert len(bars) == 1 and {"#0072b2", "#bbbbbb"} <= set(re.findall(r"fill: (#\w+)", text))
    assert results.plot_rows(tmp_path, "rows", results.by_row(runs), "other") == []


@pytest.mark.parametrize("layers", ["float", "int2", {"down1": "masked"}])
def test_an_experiment_trains_and_repeats_itself(layers, isbi, one_thread):
    data = read_data(isbi, 16)
    experiment = Experiment(layers, width=8, epochs=1, batch_size=4, weight_decay=1e-2)
    shares = []
    first = run(experiment, data, shares.append).scores
    assert shares == [0.5, 1.0] and 0 <= first["test/dice"] <= 1
    again = run(experiment, data).scores
    assert {k: v for k, v in again.items() if k != "minutes"} == {
        k: v for k, v in first.items() if k != "minutes"
    }


def test_study_command(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["study", "ingredients", "--only", "float", "plain", *tiny]
    assert main(arguments) == 0
    record = json.loads((out / "ingredients-nuclei-16px-w8-e1.json").read_text())
    assert set(record["runs"]) == {"float #0", "plain #0"}
    assert record["runs"]["plain #0"]["quantized GMAC"] > record["runs"]["float #0"]["quantized GMAC"] == 0
    before = record["runs"]
    if find_spec("matplotlib"):
        assert ">plain<" in (out / "ingredients-nuclei-16px-w8-e1.svg").read_text()
    assert main(arguments) == 0
    again = json.loads((out / "ingredients-nuclei-16px-w8-e1.json").read_text())["runs"]
    assert again == before, "nothing was trained again"
    assert main(["study", "table2", *tiny]) == 2
    assert "choose one of table1" in " ".join(capsys.readouterr().err.split())


def test_budget_command(tiny, tmp_path):
    out = tmp_path / "out"
    budget = ["study", "budget", "--max-dice-drop", "0.9", "--trials", "1", "--quick", *tiny]
    assert main(budget) == 0
    record = out / "budget-nuclei-16px-w8-e1-eager-t1.json"
    runs = json.loads(record.read_text())["runs"]
    (found,) = [run for name, run in runs.items() if name != "float"]
    assert found["fits"] == (runs["float"]["val/dice"] - found["val/dice"] <= 0.9) and found["ms"] > 0
    assert json.loads(record.read_text())["conditions"]["timed"] == "eager"
    lines = list(csv.DictReader(record.with_suffix(".csv").read_text().splitlines()))
    assert [float(line["ms eager"]) for line in lines] == [runs["float"]["ms"], found["ms"]]
    assert "ms eager, fastest" in lines[0] and "ms" not in lines[0]


def test_times_under_other_conditions_are_another_record():
    timed = [
        StudySettings("pareto", "x", quick=quick, size=64, epochs=8, threads=threads).record("nuclei")
        for quick in (False, True)
        for threads in (1, 2)
    ]
    assert timed == [
        f"pareto-nuclei-64px-w16-e8-{how}" for how in ("compiled-t1", "compiled-t2", "eager-t1", "eager-t2")
    ]
    assert StudySettings("bits", "x", quick=True, threads=2, shortcuts=True).record("nuclei") == (
        "bits-nuclei-64px-w16-e8-shortcuts"
    )
    assert StudySettings("front", "x", epochs=60).record("camvid") == "ingredients-camvid-128px-w16-e60"
    assert StudySettings("table1", "x", quick=True).record("nuclei") == "table1-nuclei-64px-w16-e8-lr0.0001"


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="one of them alone"):
        StudySettings("budget", "x")
    with pytest.raises(ValueError, match="seeds=0"):
        StudySettings("table1", "x", seeds=0)
    with pytest.raises(ValueError, match=r"lr=5.0 must lie between"):
        StudySettings("table1", "x", lr=5.0)


def test_a_learning_rate_for_every_row():
    assert StudySettings("table1", "x").base.peak == 5e-3
    assert StudySettings("table1", "x", lr=1e-4, shortcuts=True).base.peak == 1e-4
