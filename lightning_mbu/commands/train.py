"""mbu train: runs a recipe, with its own options."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ..tables import first_sentence

_PACKAGE = Path(__file__).parents[1]
# In an installed package the recipes lie inside it, in a checkout beside it.
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")


def recipes() -> dict[str, Path]:
    """Name -> file of every recipe that came with the package."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.py"))}


def run(options: Any, console: Console) -> int:
    """`mbu train`; the exit status is the recipe's.

    Raises:
        ValueError: neither a recipe nor a Python file of that name.
    """
    known = recipes()
    if options.recipe is None:
        texts = {name: first_sentence(file) for name, file in known.items()}
        if options.json:
            print(json.dumps(texts))
        else:
            for name, text in texts.items():
                console.print(f"{name:18s}{text}", highlight=False)
        return 0
    file = Path(options.recipe) if options.recipe.endswith(".py") else known.get(options.recipe)
    if file is None or not file.is_file():
        raise ValueError(
            f"there is no recipe {options.recipe!r}. Take one of {', '.join(known)}, or the path of a Python file."
        )
    before = sys.argv
    sys.argv = [str(file), *options.arguments]
    try:
        runpy.run_path(str(file), run_name="__main__")
    finally:
        sys.argv = before
    return 0
