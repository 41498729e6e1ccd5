"""What is shipped: a wheel with everything in it, a source distribution that builds the same, and a library that asks
torch for its stable interface alone, so that one wheel serves every torch from 2.10 on."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from mbu_ops.backends import library_path

ROOT = Path(__file__).parents[1]
BUILD = "import sys; sys.path.insert(0, 'ops'); import build_backend as b; print(b.build_{}(sys.argv[1]))"


def build(kind, folder, output):
    """Builds a wheel without kernels, or a source distribution, as pip asks for them; returns its path."""
    pytest.importorskip("scikit_build_core", reason="pip install scikit-build-core")
    run = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(output)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "MBU_SKIP_KERNELS": "1"}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return output / run.stdout.split()[-1]


@pytest.fixture(scope="module")
def tracked():
    """Files of this checkout, without what is ignored."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, so nobody knows which files belong to it")
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def packaged(names):
    """What of a checkout's files belongs into the wheel, under the names that it has there."""
    places = {
        "lightning_mbu/": "lightning_mbu/",
        "ops/mbu_ops/": "mbu_ops/",
        "recipes/": "lightning_mbu/recipes/",
    }
    return {to + name.removeprefix(at) for name in names for at, to in places.items() if name.startswith(at)}


def test_the_wheel_holds_everything(wheel, tracked):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("METADATA"))
        metadata = archive.read(entry).decode()
        scripts = archive.read(entry.replace("METADATA", "entry_points.txt")).decode()
    information = {name for name in names if ".dist-info/" in name}
    assert names - information == packaged(tracked)
    assert {"lightning_mbu/py.typed", "mbu_ops/py.typed", "lightning_mbu/report_style.css"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in information)
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Python: >=3.11" in metadata
    assert "mbu = lightning_mbu.cli:main" in scripts


def test_what_the_wheel_installs_runs_outside_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    # -S: an editable install of the checkout would come first.
    start = f"import sys; sys.path[:0] = [{str(tmp_path / 'site')!r}]; sys.path += {installed!r}; "
    where = "import lightning_mbu, mbu_ops; print(lightning_mbu.__file__, mbu_ops.__file__)"
    train = "from lightning_mbu.cli import main; sys.exit(main(['train', '--json']))"

    def output(code):
        return subprocess.run(
            [sys.executable, "-S", "-c", start + code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert all(path.startswith(str(tmp_path)) for path in output(where).split())
    assert set(json.loads(output(train))) == {path.stem for path in (ROOT / "recipes").glob("*.py")}


def test_the_source_distribution_builds_the_same_wheel(source, wheel, tracked, tmp_path):
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert held == {name for name in tracked if not name.startswith(".ci/")} | {"PKG-INFO"}
    again = build("wheel", folder, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert set(one.namelist()) == set(other.namelist())
        assert all(
            one.read(name) == other.read(name) for name in one.namelist() if not name.endswith("RECORD")
        )


def declared_by_torch():
    """Functions of torch's stable C interface: those that its headers declare."""
    include = Path(torch.__file__).parent / "include/torch/csrc"
    headers = [*(include / "stable/c").glob("*.h"), *(include / "inductor/aoti_torch/c").glob("shim*.h")]
    return set(re.findall(r"\b(?:aoti_)?torch_\w+(?=\()", "".join(path.read_text() for path in headers)))


def test_the_library_asks_torch_for_its_stable_interface_only():
    if shutil.which("nm") is None or sys.platform != "linux":
        pytest.skip("needs nm (binutils) on Linux")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library_path())], capture_output=True, text=True, check=True
    )
    wanted = {line.split()[-1] for line in listed.stdout.splitlines()}
    # The C library, the C++ runtime and the compiler's own carry a version; the linker's own helpers are weak.
    ours = {name for name in wanted if "@" not in name and not name.startswith(("_ITM_", "__gmon_start__"))}
    python = {name for name in ours if name.startswith(("Py", "_Py"))}
    from_torch = ours - python
    assert python == {"PyModule_Create2"}  # in Python's own stable interface since 3.2
    assert len(from_torch) > 20, "the names of the library's own operations come from torch at run time"
    assert from_torch <= declared_by_torch(), sorted(from_torch - declared_by_torch())


def test_the_audit_of_the_stable_interface_finds_nothing(capsys):
    """By the audit's own record of when each function entered torch; 2.10 is what pyproject.toml asks for."""
    audit = pytest.importorskip("torch_abi_audit.cli", reason="pip install torch-abi-audit")
    assert audit.main([str(library_path()), "--json", "--check", "both"]) == 0
    (library,) = json.loads(capsys.readouterr().out)["extensions"]
    assert library["torch"]["stable"] and library["cpython"]["compliant"]
    assert not library["torch"]["unknown_shim_symbols"] and library["torch"]["stable_shim_count"] > 20
    least = library["torch"]["min_torch_version"].rpartition(".")[0]
    assert f'"torch>={least}"' in (ROOT / "pyproject.toml").read_text()


def test_the_library_needs_no_library_of_cuda():
    if shutil.which("readelf") is None or sys.platform != "linux":
        pytest.skip("needs readelf (binutils) on Linux")
    listed = subprocess.run(
        ["readelf", "-d", str(library_path())], capture_output=True, text=True, check=True
    )
    needed = {name.split(".so")[0] for name in re.findall(r"NEEDED.*\[(.+)\]", listed.stdout)}
    assert needed <= {
        "libtorch_cpu",
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
    assert "RUNPATH" not in listed.stdout and "RPATH" not in listed.stdout
