"""What an import reaches for, what lies in the lock, what a load path may run, and who writes files whole."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "lightning_mbu").rglob("*.py"), *(ROOT / "ops" / "mbu_ops").rglob("*.py")])

# Everything is imported and a network packed; hooks of the interpreter see each connection and each file.
PROGRAM = """
import os, sys
seen = []
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        seen.append(f"{event} {args[1:]}")
    elif event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not os.fsdecode(args[0]).startswith("/dev/"):
            seen.append(f"writes {os.fsdecode(args[0])}")
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink"):
        seen.append(f"{event} {args[0]}")
sys.addaudithook(hook)
import importlib, pkgutil
import torch, lightning_mbu, mbu_ops, mbu_ops.backends
for package in (lightning_mbu, mbu_ops):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__") and ".recipes" not in found.name:
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                assert not str(error.name).startswith(("lightning_mbu", "mbu_ops")), error
from lightning_mbu import convert, make_plan, prepare
from lightning_mbu.models import MBUNet
model = MBUNet(width=8).eval()
prepare(model, make_plan(model, torch.empty(1, 3, 32, 32)))
convert(model, torch.randn(1, 3, 32, 32))
mbu_ops.backends.doctor()
print("\\n".join(seen))
"""


def test_importing_and_packing_reach_for_no_network_and_write_only_below_the_cache(tmp_path: Path) -> None:
    home, cache, work = (tmp_path / name for name in ("home", "cache", "work"))
    for folder in (home, work):
        folder.mkdir()
    environment = {
        **os.environ, "HOME": str(home), "MBU_CACHE_DIR": str(cache), "TMPDIR": str(work), "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": str(cache / "matplotlib"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }  # fmt: skip
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = [line for line in done.stdout.splitlines() if line and str(cache) not in line]
    # Temporary files, which are gone at the end.
    assert [line for line in seen if str(work) not in line] == []
    assert list(work.iterdir()) == [] and list(home.iterdir()) == []


def pins() -> dict[str, str]:
    lines = [
        line.split("#")[0].split(";")[0].strip()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    ]
    return {plain(name): version for name, version in (line.split("==") for line in lines if line)}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Names in pyproject.toml, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {plain(re.match(r"[\w.-]+", text)[0]) for group in groups for text in group}  # type: ignore[index]
    return names - {"lightning-mbu"}


def test_every_dependency_is_pinned_to_one_version() -> None:
    assert declared() - set(pins()) == set()


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv" and "MBU_LOCK" not in os.environ,
    reason="not the environment that the Makefile installs from the lock (MBU_LOCK=1 checks this one)",
)
def test_what_is_installed_is_what_the_lock_names() -> None:
    """Of everything that the distribution needs, directly or not; offline, from what installers write down."""
    from packaging.requirements import Requirement

    open_, reached, wrong = list(declared()), set(), []
    while open_:
        name = open_.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        if name in reached:
            continue
        reached.add(name)
        version = pins().get(name)
        if version is None:
            wrong.append(f"{name} {found.version} is in no lock")
        elif found.version.split("+")[0] != version:
            wrong.append(f"{name} is {found.version}, the lock names {version}")
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                open_.append(plain(needed.name))
    assert wrong == []


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_unpickled_and_nothing_evaluated(path: Path) -> None:
    for name, call in calls(path):
        where = f"{path.name}:{call.lineno}"
        if name == "torch.load":
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            assert options.get("weights_only") == "True", where
        assert name not in {"pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "os.system"}, where
        assert not name.endswith(("joblib.load", "marshal.loads", "torch.jit.load")), where
