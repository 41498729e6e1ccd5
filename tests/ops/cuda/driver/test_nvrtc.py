"""The second route: NVRTC compiles the sources that the library carries, and keeps the result on disk."""

from __future__ import annotations

import ctypes.util
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mbu_ops.cuda import cuda_kernels, serving_target

from .conftest import FEW_STEMS, H200, RTX_2080, RTX_3090, Run, link_loader


def find_nvrtc() -> str | None:
    """The one that torch brings."""
    folder = Path(torch.__file__).parents[1] / "nvidia"
    found = sorted(folder.glob("*/lib/libnvrtc.so.1?")) if folder.is_dir() else []
    return str(found[0]) if found else ctypes.util.find_library("nvrtc")


NVRTC = find_nvrtc()
pytestmark = pytest.mark.skipif(NVRTC is None, reason="this torch brings no NVRTC")


def compiled(target: str) -> str:
    """What NVRTC makes in the place of a target, for the card of these tests."""
    return "NVRTC " + ("sm_86" if target.startswith("compute_") else target)


SERVED = {k.name: compiled(str(serving_target(k, 86))) for k in cuda_kernels() if k.stem in FEW_STEMS}
CACHED = {name: f"{text}, cached" for name, text in SERVED.items()}


def routes(run: Run, folder: Path) -> dict[str, str]:
    (found,) = run(RTX_3090, ["routes", 0], MBU_NVRTC=str(NVRTC), MBU_CACHE_DIR=str(folder))
    assert all(found[name][0] for name in SERVED), found
    return {name: found[name][1] for name in SERVED}


def test_a_library_built_without_nvcc_compiles_and_then_remembers(run_sources: Run, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert SERVED
    assert routes(run_sources, folder) == SERVED
    assert routes(run_sources, folder) == CACHED
    assert stat.S_IMODE((folder / "kernels").stat().st_mode) == 0o700
    files = list((folder / "kernels").iterdir())
    assert files
    assert all(file.suffix == ".cubin" for file in files)

    # A damaged file is compiled again and replaced.
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert routes(run_sources, folder) != CACHED
    assert routes(run_sources, folder) == CACHED


# A card for each family of convolutions; one tile stands for the others, whose sources differ in numbers alone. All
# that is not of a family goes with the second card. About 17 s of one core.
FORMS = [
    (RTX_2080, ("__sm75_xor",)),
    (RTX_3090, ("__sm80_xor", "__sm80_int8", "__sm75")),
    (H200, ("__sm90_and", "__sm90_wgmma_and", "__sm90_wgmma_int8")),
]


def is_compiled_here(stem: str) -> bool:
    return not stem.startswith("gemm/") and not ("conv2d_" in stem and "32x32" not in stem)


def test_every_stem_is_compiled_for_some_card() -> None:
    ends = tuple(end for _, forms in FORMS for end in forms)
    assert all(kernel.stem.endswith(ends) for kernel in cuda_kernels())


@pytest.mark.parametrize("card, ends", FORMS, ids=["2080", "3090", "H200"])
def test_nvrtc_compiles_every_source(
    card: str, ends: tuple[str, ...], tmp_path: Path, fake_driver: Path, objects: list[str]
) -> None:
    stems = {k.stem for k in cuda_kernels() if k.stem.endswith(ends) and is_compiled_here(k.stem)}
    loader = link_loader(tmp_path, None, objects, tuple(stems))
    (found,) = Run(loader, fake_driver)(
        card, ["routes", 0], MBU_NVRTC=str(NVRTC), MBU_CACHE_DIR=str(tmp_path / "cache")
    )
    assert found.keys() == {k.name for k in cuda_kernels() if k.stem in stems}
    assert all(usable and text.startswith("NVRTC sm_") for usable, text in found.values()), found


def test_a_folder_that_others_may_write_is_not_used(run_sources: Run, tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    kernels.mkdir(mode=0o777)
    os.chmod(kernels, 0o777)
    for _ in range(2):
        assert routes(run_sources, tmp_path) == SERVED
    assert not list(kernels.iterdir())

    link = tmp_path / "other" / "kernels"
    link.parent.mkdir()
    (tmp_path / "target").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "target")
    assert routes(run_sources, link.parent) == SERVED
    assert not list((tmp_path / "target").iterdir())


def test_processes_that_compile_at_once_share_the_folder(run_sources: Run, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: routes(run_sources, tmp_path), range(4)))
    for texts in found:  # each compiled a kernel itself or read a complete file of another process
        assert all(text in (SERVED[name], CACHED[name]) for name, text in texts.items())
    assert routes(run_sources, tmp_path) == CACHED
    assert {file.suffix for file in (tmp_path / "kernels").iterdir()} == {".cubin"}


def test_a_link_in_the_place_of_a_file_is_not_followed(run_sources: Run, tmp_path: Path) -> None:
    routes(run_sources, tmp_path)
    file = next((tmp_path / "kernels").iterdir())
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    before = elsewhere.read_bytes()
    file.symlink_to(elsewhere)
    assert routes(run_sources, tmp_path) != CACHED
    assert not file.is_symlink() and elsewhere.read_bytes() == before
    assert routes(run_sources, tmp_path) == CACHED


def test_another_driver_compiles_again(run_sources: Run, tmp_path: Path) -> None:
    routes(run_sources, tmp_path)
    (found,) = run_sources(
        RTX_3090, ["routes", 0], MBU_NVRTC=str(NVRTC), MBU_CACHE_DIR=str(tmp_path), FAKE_VERSION="13010"
    )
    assert {name: found[name][1] for name in SERVED} == SERVED


def test_a_driver_that_refuses_the_images_gets_what_nvrtc_compiled(run_few: Run, tmp_path: Path) -> None:
    """As where the library's toolkit is newer than the driver: its images are refused, NVRTC's are not."""
    (found,) = run_few(
        RTX_3090, ["routes", 0], MBU_NVRTC=str(NVRTC), MBU_CACHE_DIR=str(tmp_path), FAKE_REFUSE="library=300"
    )
    assert {name: found[name][1] for name in SERVED} == SERVED
