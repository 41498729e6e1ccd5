"""Deliberate errors in the convolution: the emulated tests must notice every one of them.

A mutation replaces one text of a source by another, compiles one kernel of the damaged copy and runs layers on it until
the result is wrong or the emulator objects. A mutation that survives is a hole in the tests.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

import pytest
import torch
from emulator import build
from emulator.cases import Conv, Problem, Stream
from emulator.checks import check_head

from mbu_ops import reference

XOR_BITS = "conv2d_32x32_bits_v2__sm80_xor"
HEAD = "conv2d_64x64_stream_v2__sm80_xor"


@dataclass
class Mutation:
    file: str
    text: str
    replacement: str
    kernel: str = XOR_BITS
    says: str = ""  # what the emulator must name; empty: a wrong result is enough


MUTATIONS = {
    # the pipeline
    "no wait": Mutation(
        "pipeline.h", "if constexpr (Form::kAsync) wait_copies<kStages - 2>();", "", says="copy to it is in flight"
    ),
    "waits for one group too few": Mutation(
        "pipeline.h", "wait_copies<kStages - 2>", "wait_copies<kStages - 1>", says="copy to it is in flight"
    ),
    "no barrier behind the wait": Mutation(
        "pipeline.h", "\n      barrier();\n", "\n", says="in flight|no barrier|nobody has written"
    ),
    "no barrier without cp.async": Mutation(
        "pipeline.h", "\n      barrier();\n", "\n", "conv2d_32x32_bits_v4__sm75_xor", "no barrier|nobody has written"
    ),
    "refills the stage that is read": Mutation(
        "pipeline.h", "writing = (kStages - 1) * kStageBytes", "writing = 0", says="in flight|no barrier|nobody"
    ),
    "one commit in the prologue only": Mutation(
        "pipeline.h", "begin(step + kStages - 1, writing);\n      if constexpr (Form::kAsync) commit_copies();",
        "begin(step + kStages - 1, writing);", says="in flight|nobody has written",
    ),
    "one stage too many": Mutation(
        "pipeline.h", "+ kStageBytes == kBytes ? 0 : writing", "+ kStageBytes == 2 * kBytes ? 0 : writing",
        says="beyond the .* bytes",
    ),
    "drops the last words of K": Mutation("pipeline.h", "+ kStageWords - 1) / kStageWords", ") / kStageWords"),
    "no barrier before the sums are laid out": Mutation(
        "epilogue.h", "barrier();  // the last stage has been read", "", "conv2d_64x64_stream_v2__sm80_xor", "no barrier"
    ),
    "no barrier before the sums are read": Mutation(
        "epilogue.h", "    barrier();\n    const int warp", "    const int warp", "conv2d_64x64_stream_v2__sm80_xor",
        "no barrier|nobody has written",
    ),
    # copies
    "reads pixels outside the image": Mutation(
        "stage.h", "static_cast<uint32_t>(iy) < static_cast<uint32_t>(p.height) &&", "", says=""
    ),
    "one column too many": Mutation("stage.h", "< static_cast<uint32_t>(p.width)", "<= static_cast<uint32_t>(p.width)"),
    "reads on behind the taps": Mutation("stage.h", "present = at.inside && n[i] >= 0", "present = n[i] >= 0"),
    "columns left of the image lose their sign": Mutation(
        "stage.h", "static_cast<int16_t>(place[i])", "(place[i] & 0xffff)"
    ),
    "planes exchanged": Mutation("stage.h", "int64_t{plane} * p.padded", "int64_t{1 - plane} * p.padded",
                                 "conv2d_32x32_bits_v2__sm90_and"),
    "second source reads the first": Mutation("stage.h", "p.source[second]", "p.source[0]"),
    "ignores upsampling": Mutation("stage.h", "quotient_of(iy, source.upsample)", "iy"),
    "weights of the first phase": Mutation("stage.h", "p, first_channel, tap * p.words", "p, first_channel, 0 * p.words"),
    "row read where another was put": Mutation(
        "multiply.h", "row_offset(first_row + lane % 16, lane / 16 * 4)",
        "static_cast<uint32_t>((first_row + lane % 16) * kRowBytes + lane / 16 * 16)",
    ),
    # products
    "halves of K exchanged in one factor": Mutation("multiply.h", "lane / 8 % 2 * 4", "(lane / 8 + 1) % 2 * 4"),
    "activations not negated for neg": Mutation(
        "multiply.h", "plane ? ~a : a", "a", "conv2d_32x32_bits_v2__sm90_and"
    ),
    "set bits of rows added": Mutation(
        "multiply.h", "[half * 2 + e] - bits", "[half * 2 + e] + bits", "conv2d_32x32_bits_v2__sm90_and"
    ),
    "half of a row's bits counted": Mutation(
        "multiply.h", "add(a[i][e], a[i][2 + e])", "add(a[i][e], 0)", "conv2d_32x32_bits_v2__sm90_and"
    ),
    "bits of a lane for those of a row": Mutation(
        "multiply.h", "bits += shuffle_xor(bits, 2);", "", "conv2d_32x32_bits_v2__sm90_and"
    ),
    "ones forgotten": Mutation(
        "multiply.h", "2 * carries + count_bits(ones)", "2 * carries", "conv2d_32x32_bits_v2__sm90_and"
    ),
    "carries of two bits alone": Mutation(
        "multiply.h", "(ones & (x ^ y)) | (x & y)", "x & y", "conv2d_32x32_bits_v2__sm90_and"
    ),
    "half of the last stage for more": Mutation("multiply.h", "words > kStageWords / 2", "words > kStageWords"),
    "rows of the other half in half of a stage": Mutation(
        "multiply.h", "mma_xor_m16n8k128(c, a[0], a[1], b0)", "mma_xor_m16n8k128(c, a[0], a[2], b0)"
    ),
    "columns of the other half in half of a stage": Mutation(
        "multiply.h", "mma_and_m16n8k128(c, a[0], a[1], b0)", "mma_and_m16n8k128(c, a[0], a[1], b1)",
        "conv2d_32x32_bits_v2__sm90_and",
    ),
    "last word of bytes left out": Mutation(
        "multiply.h", "half * 4 + word >= words", "half * 4 + word >= words - 1", "conv2d_32x32_bits_v2__sm80_int8"
    ),
    "last stage counted whole": Mutation("pipeline.h", "words - step * kStageWords", "steps - step * kStageWords"),
    "planes read twice": Mutation("multiply.h", "plane * T::kChannels + warp_n", "warp_n"),
    "other bits in one factor": Mutation(
        "multiply.h", "(shift + e / 2)", "(shift + e % 2)", "conv2d_32x32_bits_v2__sm80_int8"
    ),
    "fragments crossed": Mutation(
        "multiply.h", "c[2], c[3], a[1], b0", "c[2], c[3], a[2], b0", "conv2d_32x32_bits_v2__sm75_xor"
    ),
    # epilogues
    "strict threshold": Mutation("epilogue.h", ">= limit[j][e]", "> limit[j][e]"),
    "flips padding bits": Mutation("epilogue.h", " & valid_bits(word, p.out_channels)", ""),
    "sets padding bits": Mutation("epilogue.h", ": 0x7fffffff", ": 0"),
    "half of a quad": Mutation("epilogue.h", "bits |= shuffle_xor(bits, 2);", ""),
    "writes pixels behind the last": Mutation(
        "epilogue.h", "== (i * 2 + half) % 4 && index < pass.pixels", "== (i * 2 + half) % 4", says="outside of global"
    ),
    "border counted as -1": Mutation("dots.h", "if (!p.zero_padding) return;", "return;"),
    "ring of -1 taken for zeros": Mutation("dots.h", "if (!p.zero_padding) return;", ""),
    "last tap forgotten": Mutation("dots.h", "(pass.columns.taps - 1)", "(pass.columns.taps - 2)"),
    "first tap forgotten": Mutation("dots.h", "return outside(y, p.height) || outside", "return outside"),
    "base of all taps for a phase": Mutation("dots.h", "if (one_pass) {", "if (true) {",
                                             "conv2d_32x32_bits_v2__sm90_and"),
    "phases exchanged": Mutation("tile.h", "px.y * p.out_step_h + phase_h", "px.y * p.out_step_h + phase_w"),
    "affine steps out of order": Mutation(
        "epilogue.h", "s.affine[2 * step * oc + channel]", "s.affine[channel]", "conv2d_32x32_stream_v2__sm80_xor"
    ),
    "no relu": Mutation("epilogue.h", "if (s.relu && y < 0) y = 0;", "", "conv2d_32x32_stream_v2__sm80_xor"),
    "sum instead of mean": Mutation(
        "epilogue.h", "terms == 1 ? total :", "true ? total :", "conv2d_32x32_stream_v2__sm80_xor"
    ),
    "pools one pixel less": Mutation(
        "epilogue.h", "dy < s.pool", "dy < s.pool - 1", "conv2d_32x32_stream_v2__sm80_xor"
    ),
    # the head
    "no barrier before the head": Mutation(
        "epilogue.h", "barrier();  // all channels are there", "", HEAD, "no barrier|nobody has written"
    ),
    "weights of the first class": Mutation("epilogue.h", "s.head + k * p.out_channels", "s.head", HEAD),
    "weights behind the last": Mutation("epilogue.h", "if (channel + e < p.out_channels)", "", HEAD),
    "bias forgotten": Mutation("epilogue.h", "s.head_bias ? s.head_bias[k] : 0.0f", "0.0f", HEAD),
    "logits behind the last pixel": Mutation(
        "epilogue.h", "if (first_pixel + row >= pass.pixels) continue;", "", HEAD, "outside of global"
    ),
    "dot products for the head": Mutation("epilogue.h", "if (s.head)\n", "if (false)\n", HEAD),
}  # fmt: skip

LAYERS = [
    Conv((5, 7), (160,), 40, planes=2),
    Conv((4, 6), (64, 128), 33, upsample=(2, 1)),
    Conv((3, 4), (64,), 35, kernel=(2, 2), stride=(2, 2), padding=(0, 0), transposed=True),
    Conv((6, 6), (64,), 32, kernel=(3, 3), padding=(1, 1), pad_value=-1),
    Conv((3, 5), (64,), 20, kernel=(3, 4), stride=(2, 1), padding=(2, 1), batch=2),
    Conv((5, 3), (128,), 64),
    Conv((4, 5), (64,), 36, zeros=0),
]


def kernel_line(kernel: str, csrc) -> str:
    """The macro call that defines one kernel of a file, expanded from MBU_CONV2D_FILE."""
    line = next(k for k in build.kernels() if k.name == kernel)
    text = (csrc / "cuda" / f"{line.file}.cu").read_text()
    form, tile = re.search(r"MBU_CONV2D_FILE\(\w+, \w+, (\w+), (\w+),", text).groups()
    epilogue = "ToBits" if "_bits_" in kernel else "ToStream"
    vector = kernel.split("_v")[1][0]
    return f"MBU_CONV2D({kernel}, {form}, {tile}, {epilogue}, {vector}, {line.shared_bytes})"


def build_kernel(kernel: str, folder, host_objects, mutation: Mutation | None = None):
    csrc = folder / "csrc"
    shutil.copytree(build.CSRC / "cuda", csrc / "cuda")
    (csrc / "cuda" / "ptx.h").unlink()
    if mutation:
        path = csrc / "cuda" / "conv2d" / mutation.file
        before = path.read_text()
        assert before.count(mutation.text) == 1, f"{mutation.text!r} is not in {mutation.file} exactly once"
        path.write_text(before.replace(mutation.text, mutation.replacement))
    source = folder / "kernel.cu"
    source.write_text(f'#include "cuda/conv2d/conv2d.h"\n{kernel_line(kernel, csrc)}\n')
    return build.link([*host_objects, *build.compile_all([source], folder, csrc)], folder / "kernel.so")


def first_error(library, kernel: str) -> str | None:
    """What goes wrong first, over layers and orders of events."""
    vector = int(kernel.split("_v")[1][0])
    for i, conv in enumerate(LAYERS):
        if any(channels % (32 * vector) for channels in conv.channels):
            continue
        problem = Problem(conv, i)
        options = {"late": i % 2 == 0, "backwards": i % 3 == 0}
        try:
            if "_bits_" in kernel:
                threshold, flip = problem.thresholds()
                bits = problem.bits(library, kernel, threshold, flip, **options)
                right = torch.equal(bits, reference._threshold(problem.dots, threshold, flip))
            else:
                stream = pooled_stream(problem)
                values, _ = problem.stream(library, kernel, stream, **options)
                right = torch.equal(values, problem.expected_stream(stream)[0])
                if right and conv.out_channels <= int(kernel.split("_")[1].split("x")[1]):
                    right = head_is_right(library, kernel, problem, **options)
        except RuntimeError as error:
            return str(error)
        if not right:
            return "wrong result"
    return None


def head_is_right(library, kernel: str, problem: Problem, **options: bool) -> bool:
    """With a bias; seeds differ in steps and type."""
    try:
        for seed in (1, 2):
            check_head(library, kernel, problem, seed, **options)
    except AssertionError:
        return False
    return True


def pooled_stream(problem: Problem) -> Stream:
    random, conv = torch.Generator().manual_seed(1), problem.conv
    height, width = conv.output()
    shortcut = torch.randn(conv.batch, 2 * conv.out_channels, 2 * height, 2 * width, generator=random)
    return Stream(torch.randn(2, 2, conv.out_channels, generator=random), [shortcut], pool=2, relu=True)


@pytest.mark.parametrize("name", sorted({mutation.kernel for mutation in MUTATIONS.values()}))
def test_undamaged_kernels_pass(name, host_objects, tmp_path):
    assert first_error(build_kernel(name, tmp_path, host_objects), name) is None


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_noticed(name, host_objects, tmp_path):
    mutation = MUTATIONS[name]
    error = first_error(build_kernel(mutation.kernel, tmp_path, host_objects, mutation), mutation.kernel)
    assert error, "no layer noticed"
    assert re.search(mutation.says, error), error
