"""Deliberate errors in what surrounds the main loops of CUTLASS: the emulated tests must notice every one of them.

As in test_mutations.py; here damaged copies of the headers stand in namespaces of their own in one file, so that the
headers of CUTLASS are read once. The PTX of each copy becomes a kernel library of its own.
"""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from emulator import build, translate
from emulator.cases import Conv, Problem
from emulator.checks import check_bits
from emulator.gemm import Product

GEMM, WIDE = "gemm_64x64__sm90_and", "wide_conv2d_128x64_bits__sm90_and"
HEADERS = {GEMM: ("gemm.h",), WIDE: ("taps.h", "wide_conv2d.h")}
PARAMS = {GEMM: "GemmParams", WIDE: "Conv2dParams"}


@dataclass
class Mutation:
    kernel: str
    text: str
    replacement: str
    says: str = ""  # what the emulator must name; empty: a wrong result is enough


MUTATIONS = {
    "planes exchanged": Mutation(GEMM, "kXor ? plane : 1 - plane", "plane"),
    "not negated between planes": Mutation(GEMM, "sums[i] = -sums[i]", "sums[i] = sums[i]"),
    "sum of weights forgotten": Mutation(GEMM, "own < p.out_channels ? -p.weight_sum[own] : 0", "0"),
    "rows of another warp": Mutation(GEMM, "warp % kWarpsM * Warp::kM", "warp / kWarpsM * Warp::kM"),
    "strict threshold": Mutation(GEMM, ">= limit[j][e]", "> limit[j][e]"),
    "half of a quad": Mutation(GEMM, "bits |= shuffle_xor(bits, 2);", ""),
    "sets padding bits": Mutation(GEMM, ": 0x7fffffff", ": -0x7fffffff"),
    "rows behind the last": Mutation(GEMM, "% 4 == 0 && at < p.rows", "% 4 == 0", "outside of global"),
    "what was there instead of zeros": Mutation(WIDE, "SharedMemoryClearOption::kZfill", "SharedMemoryClearOption::kNone"),
    "stays at the first stage": Mutation(WIDE, "go_to(step_ + 1)", "go_to(step_)"),
    "rows above the image": Mutation(WIDE, "!outside(y(), p_.height) && ", ""),
    "columns lose their sign": Mutation(WIDE, "static_cast<int16_t>(place_[row_])", "(place_[row_] & 0xffff)"),
    "second source reads the first": Mutation(WIDE, "p_.source[second_]", "p_.source[0]"),
    "second source from its middle": Mutation(WIDE, "at.word - (second_ ? p_.source[0].words : 0)", "at.word"),
    "ignores upsampling": Mutation(WIDE, "quotient_of(y(), source.upsample)", "y()"),
    "neighbouring rows": Mutation(WIDE, "i * ThreadMap::Delta::kStrided", "i"),
    "counted as if not inverted": Mutation(WIDE, "if (!kXor && p.weight_planes == 2)", "if (!p.words)"),
    "negative weights of one tap": Mutation(WIDE, "tap < p.taps", "tap < 1"),
    "rows and channels exchanged": Mutation(WIDE, "e / 2, e % 2", "e % 2, e / 2"),
}  # fmt: skip
UNDAMAGED = {GEMM: "undamaged product", WIDE: "undamaged convolution"}


def damaged(kernel: str, namespace: str, mutation: Mutation | None) -> str:
    """The headers of a kernel inside ``mbu::cuda::<namespace>``."""
    texts = [(build.CSRC / "cuda" / "gemm" / name).read_text() for name in HEADERS[kernel]]
    begin, end = "namespace mbu::cuda {", "}  // namespace mbu::cuda"
    bodies = "".join(text[text.index(begin) + len(begin) : text.index(end)] for text in texts)
    if mutation:
        assert bodies.count(mutation.text) == 1, f"{mutation.text!r} is not there exactly once"
        bodies = bodies.replace(mutation.text, mutation.replacement)
    return f"namespace mbu::cuda::{namespace} {{{bodies}}}\n"


def sources(kernel: str, copies: list[Mutation | None]) -> str:
    """One CUDA file with a kernel ``copy_<i>`` for every copy."""
    stem = next(line.file for line in build.kernels() if line.name == kernel)
    # Without the calls that define the undamaged kernels.
    text = re.sub(r"^MBU_.*\n", "", build.generator().source(stem), flags=re.MULTILINE)
    mma = re.search(r"struct (\w+) :", text)
    assert mma is not None
    for i, mutation in enumerate(copies):
        text += damaged(kernel, f"copy{i}", mutation)
        run = (
            f"Gemm<{mma[1]}::Mma, false>"
            if kernel == GEMM
            else f"WideConv2d<{mma[1]}::Mma, false, mbu::cuda::ToBits>"
        )
        text += f"MBU_KERNEL void copy_{i}(const __grid_constant__ mbu::cuda::{PARAMS[kernel]} params) {{\n"
        text += f"  mbu::cuda::copy{i}::{run}::run(params);\n}}\n"
    return text


@pytest.fixture(scope="module")
def libraries(host_objects, tmp_path_factory):
    """Name of a mutation -> its kernel; none without nvcc or CUTLASS."""
    headers = build.generator().cutlass_headers()
    if build.NVCC is None or headers is None:
        pytest.skip("no nvcc, or no cutlass_library (pip install --no-deps nvidia-cutlass)")
    folder = tmp_path_factory.mktemp("mutants")

    def make(kernel: str) -> dict[str, object]:
        chosen = {UNDAMAGED[kernel]: None, **{n: m for n, m in MUTATIONS.items() if m.kernel == kernel}}
        source, ptx = folder / f"{kernel}.cu", folder / f"{kernel}.ptx"
        source.write_text(sources(kernel, list(chosen.values())))
        includes = [f"-I{path}" for path in (build.CSRC, build.CSRC / "include", headers)]
        command = [str(build.NVCC), "-std=c++17", "-ptx", "-arch=compute_90a", "-diag-suppress=20013,20015"]
        done = subprocess.run(
            [*command, *includes, str(source), "-o", str(ptx)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        bodies = translate.entries(ptx.read_text())
        made = {}
        for i, name in enumerate(chosen):
            cpp = folder / f"{kernel}_{i}.cpp"
            body = bodies[f"copy_{i}"].replace(f"copy_{i}_param_0", f"{kernel}_param_0")
            cpp.write_text(translate.PROLOGUE + translate.translate(kernel, body, PARAMS[kernel]))
            objects = build.compile_all([cpp], folder)
            made[name] = build.link([*host_objects, *objects], folder / f"{kernel}_{i}.so")
        return made

    with ThreadPoolExecutor(2) as pool:
        return {name: library for made in pool.map(make, HEADERS) for name, library in made.items()}


PRODUCTS = [Product(70, 640, 40, planes=2, zeros=2), Product(5, 1152, 33, seed=1)]
LAYERS = [
    Conv((4, 6), (512, 512), 33, kernel=(1, 1), padding=(0, 0), upsample=(2, 1)),
    Conv((5, 4), (512,), 40, kernel=(2, 2), zeros=2),
    Conv((2, 3), (512,), 9, kernel=(2, 1), padding=(3, 0), zeros=3),
]


def check(kernel: str, library) -> None:
    for i in range(4):
        options = {"late": i % 2 == 0, "backwards": i % 3 == 0}
        if kernel == GEMM:
            product = PRODUCTS[i % len(PRODUCTS)]
            assert torch.equal(product.run(library, kernel, True, **options), product.expected_bits())
        else:
            check_bits(library, kernel, Problem(LAYERS[i % len(LAYERS)], i), **options)


@pytest.mark.parametrize("name", list(HEADERS))
def test_undamaged_kernels_pass(name, libraries):
    check(name, libraries[UNDAMAGED[name]])


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_noticed(name, libraries):
    mutation = MUTATIONS[name]
    with pytest.raises((AssertionError, RuntimeError), match=mutation.says or None):
        check(mutation.kernel, libraries[name])
