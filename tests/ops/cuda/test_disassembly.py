"""What the compiler made of the kernels: the tensor-core instruction that was meant, no spills, no emulated products."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbu_ops.cuda import CudaImage, cuda_images, cuda_kernels, image_bytes

INSTRUCTIONS = {
    "sm75_xor": "BMMA.88128.XOR.POPC",
    "sm80_xor": "BMMA.168256.XOR.POPC",
    "sm90_and": "BMMA.168256.AND.POPC",
    "sm80_int8": "IMMA.16832.S8.S8",
}
# What ptxas calls rather than inlines: the slow path of a division, votes of warps that have diverged.
KNOWN_CALLS = re.compile(r"__cuda_sm\w+_(div_rn\w*|votesync_\w+|shflsync_\w+|warpsync)$")


def find_tool(name: str) -> str | None:
    """The one on the path, or the one that comes with torch's compiler."""
    spec = importlib.util.find_spec("triton")
    folder = Path(str(spec.origin)).parent / "backends/nvidia/bin" if spec else Path()
    return shutil.which(name) or (str(folder / name) if (folder / name).is_file() else None)


CUOBJDUMP = find_tool("cuobjdump")
IMAGES = cuda_images()
MACHINE_CODE = [image for image in IMAGES if image.target.startswith("sm_")]
WITH_CUTLASS = any(image.stem.startswith("gemm/") for image in IMAGES)
pytestmark = [
    pytest.mark.skipif(CUOBJDUMP is None, reason="no cuobjdump, on the path or with triton"),
    pytest.mark.skipif(not IMAGES, reason="this library was built without nvcc: it carries no images"),
]


def dump(path: Path, *options: str) -> str:
    done = subprocess.run([str(CUOBJDUMP), *options, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def products_of(code: str) -> set[str]:
    """The tensor-core instructions in a disassembly."""
    return set(re.findall(r"\b[BHIDQ]?G?MMA\.[A-Z0-9.]+", code))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[CudaImage, Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = {}
    for i, image in enumerate(MACHINE_CODE):
        paths[image] = folder / f"{i}.fatbin"
        paths[image].write_bytes(image_bytes(image))
    return paths


def test_every_target_of_every_kernel_is_in_the_library() -> None:
    carried = {(image.stem, image.target) for image in IMAGES}
    for kernel in cuda_kernels():
        if kernel.stem.startswith("gemm/") and not WITH_CUTLASS:
            continue
        for target in kernel.targets:
            name = target if "_" in target else f"sm_{target}"
            assert (kernel.stem, name) in carried, f"{kernel.name} lacks {name}"


def test_xor_and_and_kernels_have_no_ptx() -> None:
    """PTX runs on later cards too, where these products are emulated at best and wrong at worst."""
    for image in IMAGES:
        if image.target.startswith("compute_"):
            assert not image.stem.endswith(("_xor", "_and"))


@pytest.mark.parametrize("family", INSTRUCTIONS)
def test_convolutions_use_the_instruction_that_is_meant(family: str, files: dict[CudaImage, Path]) -> None:
    found = [image for image in MACHINE_CODE if image.stem == f"conv2d/conv2d_32x32__{family}"]
    assert found
    for image in found:
        code = dump(files[image], "-sass", "-fun", f"conv2d_32x32_bits_v4__{family}")
        products = products_of(code)
        assert products == {INSTRUCTIONS[family]}, f"{image.target}: {products}"


@pytest.mark.skipif(not WITH_CUTLASS, reason="this library was built without cutlass_library")
def test_products_of_cutlass_use_the_instruction_that_is_meant(files: dict[CudaImage, Path]) -> None:
    parts = ("gemm/gemm_64x64__", "gemm/wide_conv2d_128x64__")
    found = [image for image in MACHINE_CODE if image.stem.startswith(parts)]
    for part in parts:
        targets = {image.target for image in found if image.stem.startswith(part)}
        assert targets == {"sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90a"}
    for image in found:
        products = products_of(dump(files[image], "-sass"))
        assert products == {INSTRUCTIONS[image.stem.rpartition("__")[2]]}, f"{image.target}: {products}"
        calls = set(re.findall(r"__cuda_sm\w+", dump(files[image], "-elf")))
        assert all(KNOWN_CALLS.match(call) for call in calls), calls


def test_images_hold_their_kernels_and_none_spills(files: dict[CudaImage, Path]) -> None:
    def check(image: CudaImage) -> list[str]:
        usage = dump(files[image], "-res-usage")
        rows = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
        names = {kernel.name for kernel in cuda_kernels() if kernel.stem == image.stem}
        wrong = [f"{image.target} {row}" for row in rows if row[2:] != ("0", "0")]
        if {row[0] for row in rows} != names:
            wrong.append(f"{image.stem} {image.target} holds {sorted(row[0] for row in rows)}")
        return wrong

    with ThreadPoolExecutor(2) as pool:
        wrong = [line for lines in pool.map(check, MACHINE_CODE) for line in lines]
    assert not wrong


def test_every_kernel_of_every_tile_uses_the_instruction_that_is_meant(files: dict[CudaImage, Path]) -> None:
    """Of each source on the first architecture it is compiled for; one tile on every architecture is read above."""
    firsts = {image.stem: image for image in reversed(MACHINE_CODE)}
    meant = {stem: INSTRUCTIONS.get(stem.rpartition("__")[2]) for stem in firsts}

    def check(stem: str) -> list[str]:
        path = files[firsts[stem]]
        products = products_of(dump(path, "-sass"))
        calls = set(re.findall(r"__cuda_sm\w+", dump(path, "-elf")))
        unknown = [call for call in calls if not KNOWN_CALLS.match(call)]
        return [f"{stem}: {found}" for found in (products - {meant[stem]}, unknown) if found] + (
            [f"{stem} lacks {meant[stem]}"] if meant[stem] not in products else []
        )

    with ThreadPoolExecutor(2) as pool:
        wrong = [line for lines in pool.map(check, [s for s in meant if meant[s]]) for line in lines]
    assert not wrong


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_an_emulated_product_would_be_seen(tmp_path: Path) -> None:
    """Hopper has no xor.popc: the compiler calls a function for it, which is what the test above looks for."""
    source = tmp_path / "emulated.cu"
    source.write_text("""extern "C" __global__ void emulated(int* c, const unsigned* a) {
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
               "{%0,%1,%2,%3};" : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]));
}""")
    output = tmp_path / "emulated.cubin"
    command = ["nvcc", "-cubin", "-arch=sm_90", str(source), "-o", str(output)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    calls = set(re.findall(r"__cuda_sm\w+", dump(output, "-elf")))
    assert calls
    assert not all(KNOWN_CALLS.match(call) for call in calls)
