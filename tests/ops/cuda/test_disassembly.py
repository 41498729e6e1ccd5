"""What the compiler made of the kernels: the tensor-core instruction that was meant, no spills, no emulated products."""

from __future__ import annotations

import importlib.util
import os
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
# The last step of a sum may be half as long.
HALVES = {"sm80_xor": "BMMA.168128.XOR.POPC", "sm90_and": "BMMA.168128.AND.POPC"}
# Of kernels that measure rates alone.
WARPGROUPS = {"sm90_wgmma_and": "BGMMA.64x256x256.AND.POPC", "sm90_wgmma_int8": "IGMMA.64x256x32.S8.S8"}
LATER = ("sm_100", "sm_120")  # served by PTX alone
# What ptxas calls rather than inlines: the slow path of a division, votes of warps that have diverged.
KNOWN_CALLS = re.compile(r"__cuda_sm\w+_(div_rn\w*|votesync_\w+|shflsync_\w+|warpsync)$")


def find_tool(name: str) -> str | None:
    """The one on the path, or the one that comes with torch's compiler."""
    spec = importlib.util.find_spec("triton")
    folder = Path(str(spec.origin)).parent / "backends/nvidia/bin" if spec else Path()
    return shutil.which(name) or (str(folder / name) if (folder / name).is_file() else None)


CUOBJDUMP, PTXAS = find_tool("cuobjdump"), find_tool("ptxas")
IMAGES = cuda_images()
MACHINE_CODE = [image for image in IMAGES if image.target.startswith("sm_")]
WITH_CUTLASS = any(image.stem.startswith("gemm/") for image in IMAGES)
pytestmark = [
    pytest.mark.skipif(CUOBJDUMP is None, reason="no cuobjdump, on the path or with triton"),
    pytest.mark.skipif(
        not IMAGES and (shutil.which("nvcc") is None or bool(os.environ.get("MBU_SKIP_CUDA"))),
        reason="this library was built without nvcc: it carries no images",
    ),
]


def dump(path: Path, *options: str) -> str:
    done = subprocess.run([str(CUOBJDUMP), *options, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def products_of(code: str) -> set[str]:
    """The tensor-core instructions in a disassembly."""
    return set(re.findall(r"\b[BHIDQ]?G?MMA\.[A-Zx0-9.]+", code))


def unknown_calls(path: Path) -> set[str]:
    """Of functions that the compiler brings, but for those that are known to be harmless."""
    return {call for call in re.findall(r"__cuda_sm\w+", dump(path, "-elf")) if not KNOWN_CALLS.match(call)}


def usage_of(path: Path) -> list[tuple[str, int]]:
    """The kernels in machine code, with the bytes of each that spill."""
    rows = re.findall(
        r"Function (\w+):\s+REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", dump(path, "-res-usage")
    )
    return [(name, int(stack) + int(local)) for name, stack, local in rows]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[CudaImage, Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = {}
    for i, image in enumerate(MACHINE_CODE):
        paths[image] = folder / f"{i}.fatbin"
        paths[image].write_bytes(image_bytes(image))
    return paths


def test_a_library_of_a_machine_with_nvcc_carries_images() -> None:
    assert IMAGES, "nvcc is here and the library has no images: build it again, or set MBU_SKIP_CUDA=1"


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


def meant_by(stem: str) -> set[str]:
    """The instructions of a source; none for one without products."""
    form = stem.rpartition("__")[2]
    found = {(INSTRUCTIONS | WARPGROUPS).get(form), HALVES.get(form) if stem.startswith("conv2d/") else None}
    return {product for product in found if product}


@pytest.mark.parametrize("family", INSTRUCTIONS)
def test_convolutions_use_the_instruction_that_is_meant(family: str, files: dict[CudaImage, Path]) -> None:
    found = [image for image in MACHINE_CODE if image.stem == f"conv2d/conv2d_32x32__{family}"]
    assert found
    for image in found:
        code = dump(files[image], "-sass", "-fun", f"conv2d_32x32_bits_v4__{family}")
        products = products_of(code)
        assert products == meant_by(image.stem), f"{image.target}: {products}"


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
        assert not unknown_calls(files[image])


def test_images_hold_their_kernels_and_none_spills(files: dict[CudaImage, Path]) -> None:
    def check(image: CudaImage) -> list[str]:
        usage = usage_of(files[image])
        names = {kernel.name for kernel in cuda_kernels() if kernel.stem == image.stem}
        wrong = [f"{name} for {image.target} spills {spilled} bytes" for name, spilled in usage if spilled]
        if {name for name, _ in usage} != names:
            wrong.append(f"{image.stem} {image.target} holds {sorted(name for name, _ in usage)}")
        return wrong

    with ThreadPoolExecutor(2) as pool:
        wrong = [line for lines in pool.map(check, MACHINE_CODE) for line in lines]
    assert not wrong


def test_every_kernel_of_every_tile_uses_the_instruction_that_is_meant(files: dict[CudaImage, Path]) -> None:
    """Of each source on the first architecture it is compiled for; one tile on every architecture is read above."""
    firsts = {image.stem: image for image in reversed(MACHINE_CODE)}
    meant = {stem: meant_by(stem) for stem in firsts}

    def check(stem: str) -> list[str]:
        path = files[firsts[stem]]
        products, calls = products_of(dump(path, "-sass")), unknown_calls(path)
        wrong = [f"{stem} calls {calls}"] if calls else []
        return wrong + ([f"{stem}: {products}"] if products != meant[stem] else [])

    with ThreadPoolExecutor(2) as pool:
        wrong = [line for lines in pool.map(check, [s for s in meant if meant[s]]) for line in lines]
    assert not wrong


@pytest.mark.skipif(PTXAS is None, reason="no ptxas, on the path or with triton")
@pytest.mark.parametrize("target", LATER)
def test_ptx_becomes_the_instruction_that_is_meant_on_later_cards(target: str, tmp_path: Path) -> None:
    """The driver assembles it there: their bits are emulated, and no machine code in the library is for them."""
    found = [i for i in IMAGES if i.target.startswith("compute_") and i.stem.startswith("conv2d/")]
    assert sorted(image.stem for image in found) == [
        f"conv2d/conv2d_{tile}__sm80_int8" for tile in ("128x64", "32x32", "64x64")
    ]

    def check(image: CudaImage) -> list[str]:
        name = image.stem.rpartition("/")[2]
        carried, ptx, code = (tmp_path / f"{name}.{suffix}" for suffix in ("fatbin", "ptx", "cubin"))
        carried.write_bytes(image_bytes(image))
        text = dump(carried, "-ptx")
        ptx.write_text(text[text.index(".version") :])
        command = [str(PTXAS), f"-arch={target}", str(ptx), "-o", str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        usage, products = usage_of(code), products_of(dump(code, "-sass"))
        wrong = [f"{kernel} spills {spilled} bytes" for kernel, spilled in usage if spilled]
        wrong += [f"{name} calls {call}" for call in unknown_calls(code)]
        if len(usage) != 6 or products != {INSTRUCTIONS["sm80_int8"]}:
            wrong.append(f"{name} holds {usage} with {products}")
        return wrong

    with ThreadPoolExecutor(2) as pool:
        wrong = [line for lines in pool.map(check, found) for line in lines]
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
    assert unknown_calls(output)
