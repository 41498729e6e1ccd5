"""Every recipe runs as it stands, at its smallest."""

import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.py"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_smoke(recipe, tmp_path):
    run = subprocess.run(
        [sys.executable, recipe, "--smoke", "--output", tmp_path / "net.mbu"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert "bit-exact" in run.stdout and (tmp_path / "net.mbu").exists()
    assert len(recipe.read_text().splitlines()) <= 120
