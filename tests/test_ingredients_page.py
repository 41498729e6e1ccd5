"""docs/ingredients.md against the code and the results that it copies."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

from lightning_mbu import MBUQuantize
from lightning_mbu.averaging import parameter_groups
from lightning_mbu.models import MBUNet
from lightning_mbu.recipe import Recipe

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/ingredients.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| ingredient")
]
# Of `MBUQuantize` and `Recipe`: settings of the run, not ingredients.
NO_INGREDIENTS = {"self", "preset", "model", "input_size", "plan", "ramp", "min_channels", "exclude", "restarts", "recipe",
                  "linear", "distill_temperature", "log_layers"}  # fmt: skip


def arguments(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_every_ingredient_has_a_row_and_every_row_exists():
    options = (arguments(MBUQuantize.__init__) | {field.name for field in fields(Recipe)}) - NO_INGREDIENTS
    named = {name for row in ROWS for name in re.findall(r"(\w+)=", row[1])}
    assert options <= named, "each option has a row"
    assert named <= options | arguments(MBUNet) | arguments(parameter_groups), "each row has an option"
    assert len(ROWS) > 25 and all(len(row) == 4 for row in ROWS)


def test_papers_are_those_that_the_code_cites():
    cited = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "lightning_mbu").rglob("*.py"))
    papers = {paper for row in ROWS for paper in re.findall(r"arXiv:\d{4}\.\d{5}", row[2])}
    assert len(papers) > 12 and not [paper for paper in papers if paper not in cited]


def test_numbers_are_those_of_the_results():
    measured = set(re.findall(r"\.\d+", (ROOT / "docs/results/accuracy.md").read_text(encoding="utf-8")))
    copied = {number for row in ROWS for number in re.findall(r"(?<!\d)\.\d+", row[3])}
    assert len(copied) > 20 and not copied - measured
