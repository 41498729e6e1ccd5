"""The matrix products that csrc/cuda/generate.py has CUTLASS write, run from their PTX, against plain torch."""

from __future__ import annotations

import subprocess

import pytest
import torch
from emulator import build
from emulator.gemm import Product

KERNELS = [
    kernel.name
    for kernel in build.kernels()
    if kernel.file in build.GENERATED_FILES and kernel.params == "GemmParams"
]
# K in stages of 512 bits: less than one, exactly one, several with a rest; rows and channels that fill no tile.
PRODUCTS = {
    "one short stage": lambda: Product(5, 128, 33),
    "tail channels, a gap between rows": lambda: Product(70, 370, 64, gap=4, planes=2),
    "two stages, several tiles": lambda: Product(150, 1024, 150, seed=1),
    "five stages and a rest": lambda: Product(33, 2 * 1024 + 640, 65, zeros=3, seed=2),
    "all weights zero": lambda: Product(3, 512, 40, zeros=4),
    "no zeros": lambda: Product(5, 1024, 40, zeros=0),
    "one row, one channel": lambda: Product(1, 1152, 1, seed=3),
}


@pytest.mark.parametrize("name", KERNELS)
def test_ptx(generated, name):
    for i, make in enumerate(PRODUCTS.values()):
        product = make()
        # Both moments at which a copy may land, both orders of warps.
        options = {"late": i % 2 == 0, "backwards": i % 3 == 0}
        assert torch.equal(product.run(generated, name, True, **options), product.expected_bits())
        assert torch.equal(product.run(generated, name, False, **options), product.dots.float())


@pytest.mark.parametrize("name", KERNELS)
def test_rows_that_are_not_whole_copies_are_refused(generated, name):
    for product in (Product(4, 96, 8), Product(4, 128, 8, gap=1)):
        with pytest.raises(RuntimeError, match="multiples of 16 bytes"):
            product.run(generated, name, True)


def test_every_generated_line_is_a_product_that_fits_its_line():
    """Threads and shared memory of kernels.inc are those that generate.py writes, and a wrong tile is refused."""
    tools = build.generator()
    if tools.cutlass_headers() is None:
        pytest.skip("no cutlass_library")
    generated = [kernel for kernel in build.kernels() if kernel.generated]
    assert {kernel.file.rpartition("__")[2] for kernel in generated} == set(tools.FORMS)
    for kernel in generated:
        (call,) = [line for line in tools.source(kernel.file).splitlines() if f"({kernel.name}, " in line]
        assert call.endswith(f", {kernel.threads}, {kernel.shared_bytes})")
    with pytest.raises(ValueError, match="multiples of 32"):
        tools.source("gemm/gemm_128x48__sm80_xor")
    with pytest.raises(ValueError, match="no product to generate"):
        tools.source("gemm/gemm_64x64__sm90_xor")


@pytest.mark.parametrize("form, architecture", [("sm75_xor", 80), ("sm80_xor", 90), ("sm90_and", 89)])
def test_wrong_architecture_is_refused(tmp_path, form, architecture):
    tools = build.generator()
    if build.NVCC is None or tools.cutlass_headers() is None:
        pytest.skip("no nvcc or no cutlass_library")
    stem = f"gemm/gemm_64x64__{form}"
    tools.write(tmp_path, [stem])
    command = [build.NVCC, "-std=c++17", "-ptx", f"-arch=compute_{architecture}", f"-I{build.CSRC}"]
    command += [
        f"-I{build.CSRC / 'include'}",
        f"-I{tools.cutlass_headers()}",
        "-o",
        str(tmp_path / "out.ptx"),
    ]
    done = subprocess.run(
        [*command, str(tmp_path / f"{stem}.cu")], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert tools.FORMS[form].why in done.stderr
