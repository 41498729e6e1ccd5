"""Who may import whom (style: recipes -> lightning_mbu -> mbu_ops -> torch), seen from fresh processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mbu_ops._library

ROOT = Path(__file__).parents[1]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after running `statement` in a new process."""
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in run.stdout.split()} | set(run.stdout.split())


def imports_of(path: Path) -> set[str]:
    """Absolute and relative modules that a file imports anywhere, functions included."""
    found = re.findall(r"^\s*(?:from\s+([.\w]+)\s+import|import\s+([.\w]+))", path.read_text(), re.MULTILINE)
    return {a or b for a, b in found}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_runtime_brings_in_torch_alone():
    loaded = loaded_by("import mbu_ops")
    assert "torch" in loaded
    assert not loaded & {"lightning", "pytorch_lightning", "segmentation_models_pytorch", "lightning_mbu"}
    only_torch = loaded_by("import torch")
    assert {name for name in loaded - only_torch if "." not in name} <= {"mbu_ops", "ctypes", "_ctypes"}


def test_training_package_does_not_need_segmentation_models():
    assert "segmentation_models_pytorch" not in loaded_by(
        "from lightning_mbu import *; import lightning_mbu.callback"
    )


def test_a_plan_needs_no_lightning_and_names_are_still_there():
    work = "main(['plan', 'lightning_mbu.models:MBUNet', '--no-verdict', '--json'])"
    assert not loaded_by(f"from lightning_mbu.cli import main; {work}") & {"lightning", "pytorch_lightning"}
    import lightning_mbu

    assert lightning_mbu.MBUQuantize().phase and {"MBUQuantize", "convert"} <= set(dir(lightning_mbu))
    assert set(lightning_mbu.__all__) == set(lightning_mbu._LATER)  # `from lightning_mbu import *`
    with pytest.raises(AttributeError, match="no attribute 'MBUQuantise'"):
        lightning_mbu.MBUQuantise  # noqa: B018


@pytest.mark.parametrize("path", python_files("ops/mbu_ops"), ids=lambda p: p.name)
def test_runtime_imports_nothing_above_it(path):
    forbidden = {"lightning", "segmentation_models_pytorch", "lightning_mbu", "numpy"}
    assert not {name.partition(".")[0] for name in imports_of(path)} & forbidden


@pytest.mark.parametrize("path", sorted((ROOT / "ops/csrc").rglob("*.[ch]*")), ids=lambda p: p.name)
def test_kernels_know_pointers_not_tensors(path):
    includes = re.findall(r'#include\s+[<"]([^>"]+)', path.read_text())
    if "torch" not in path.relative_to(ROOT / "ops/csrc").parts[0]:
        assert not [name for name in includes if name.startswith(("torch/", "ATen/", "c10/"))]


@pytest.mark.parametrize("path", python_files("lightning_mbu"), ids=lambda p: str(p.relative_to(ROOT)))
def test_lightning_and_smp_stay_at_the_edges(path):
    relative = path.relative_to(ROOT / "lightning_mbu")
    imported = {name.partition(".")[0] for name in imports_of(path)}
    trains = relative.parts[0] in ("demo", "scenes") or relative.parts == ("explore", "training.py")
    if not trains and relative.name not in (
        "callback.py",
        "companions.py",
        "live_pictures.py",
        "runs.py",
        "cli.py",
    ):
        assert not imported & {"lightning", "pytorch_lightning"}
    if not trains:
        assert "segmentation_models_pytorch" not in imported
    assert not imported & {"tests", "recipes"}


def test_callback_does_not_need_the_kernels():
    imported = imports_of(ROOT / "lightning_mbu/callback.py")
    assert not [name for name in imported if re.search(r"deploy|benchmark|mbu_ops", name)]


def test_recipes_use_public_names_only():
    for path in python_files("recipes"):
        inner = [name for name in imports_of(path) if name.startswith("lightning_mbu.")]
        assert set(inner) <= {"lightning_mbu.models", "lightning_mbu.demo", "lightning_mbu.scenes"}, path


def test_an_install_without_kernels_plans_and_says_what_it_lacks():
    code = """
import sys
sys.modules["mbu_ops._C"] = None  # as if it had been built with MBU_SKIP_KERNELS
from lightning_mbu import MBUQuantize, make_plan, summary
from lightning_mbu.cli import main
small = ["lightning_mbu.models:MBUNet", "--size", "32", "--json"]
assert main(["plan", *small]) == 0 == main(["summary", *small]) and main(["convert", "x.ckpt"]) == 2
import mbu_ops
try:
    mbu_ops.load_package("x.pt2")
except RuntimeError as error:
    print("load_package:", error)
from lightning_mbu import load
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "load_package: this install of mbu_ops has no compiled kernels" in run.stdout
    assert run.stderr.count("no compiled kernels") == 3 and "RuntimeError: this install" in run.stderr


def test_free_threaded_python_is_refused_by_name():
    code = """
import sys, sysconfig
import torch
asked = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else asked(name)
class Crash:  # in the place of the library, which free-threaded Python would load and crash in
    def find_spec(name, path=None, target=None):
        assert name != "mbu_ops._C", "loaded"
sys.meta_path.insert(0, Crash)
import mbu_ops
"""
    if not mbu_ops._library.AVAILABLE:
        pytest.skip("this install has no kernels")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "ImportError: the kernels of mbu_ops use Python's stable ABI, which free-threaded" in run.stderr
