"""Deliberate errors in the kernels over flat lists: the emulated tests must notice every one of them.

As in test_mutations.py, on the sources of packing, unpacking, joining, pooling and the first layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from emulator import build, flat
from torch import Tensor

from mbu_ops import functional as F
from mbu_ops import reference
from mbu_ops.packing import pack_bits

CHANNELS, PIXELS, UNPACK, JOIN = "pack_channels__sm75", "pack_pixels__sm75", "unpack__sm75", "join_bits__sm75"
POOL, STEM = "max_pool2d_v4__sm75", "stem__sm75"


@dataclass
class Mutation:
    kernel: str
    text: str
    replacement: str


MUTATIONS = {
    "strict threshold": Mutation(CHANNELS, "n, channel) >= threshold", "n, channel) > threshold"),
    "packs lanes behind the last channel": Mutation(CHANNELS, "if (channel < p.channels) {", "if (true) {"),
    "flips padding bits": Mutation(CHANNELS, "[at.remainder] & valid_bits(plane.remainder, p.channels)", "[at.remainder]"),
    "gate of the first image": Mutation(CHANNELS, "p.gate[n * p.channels + channel]", "p.gate[channel]"),
    "words of another lane": Mutation(CHANNELS, "if (lane == i)", "if (lane == (i ^ 1))"),
    "thresholds of the first plane": Mutation(PIXELS, "thresholds = plane.quotient * p.channels", "thresholds = 0"),
    "packs on behind the last channel": Mutation(PIXELS, "&& channel < p.channels; ++", "; ++"),
    "words of a pixel apart": Mutation(PIXELS, "int64_t{pixel} * p.words + word", "item"),
    "highest bit first": Mutation(UNPACK, ">> (channel % 32) & 1", ">> (31 - channel % 32) & 1"),
    "pixels without a gap": Mutation(UNPACK, "px.x * p.stride_w", "px.x * ((p.channels + 31) / 32)"),
    "bits of the next part": Mutation(JOIN, "if (shift && 32 * (word + 1) < part.channels)", "if (shift)"),
    "half of a word that two parts share": Mutation(JOIN, "joined |= bits[0] << (first - begin)", "joined = bits[0]"),
    "rounds to the middle of a pixel": Mutation(JOIN, "static_cast<float>(index) * scale", "(index + 0.5f) * scale"),
    "columns enlarged as rows": Mutation(JOIN, "nearest(px.x, part.column_scale", "nearest(px.x, part.row_scale"),
    "last pixel instead of the largest": Mutation(POOL, "any.word[k] |= words", "any.word[k] = words"),
    "windows without dilation": Mutation(POOL, "+ j * p.dilation_w", "+ j"),
    "rows outside of the image": Mutation(POOL, "outside(y, p.height) || ", ""),
    "first words of every pixel": Mutation(POOL, "p.input + px.n * p.stride_n + at.remainder * kVector", "p.input + px.n * p.stride_n"),
    "no relu": Mutation(STEM, "if (s.relu && y[i] < 0) y[i] = 0;", ""),
    "bits of what is not stored": Mutation(STEM, "    y[i] = round_to(y[i], s.kind);\n", ""),
    "second word by weights of the first": Mutation(STEM, "weight[0] + int64_t{p.kernel_h} * row_weights :", "weight[0] :"),
    "weights of rows that are outside": Mutation(STEM, "weight[0] += row_weights, weight[1] += row_weights;", ""),
    "affine steps out of order": Mutation(STEM, "s.affine[2 * step * oc + own]", "s.affine[own]"),
    "three columns without padding": Mutation(STEM, "w.first - p.padding_w + i)", "w.first + i)"),
    "columns without dilation": Mutation(STEM, "+ kx * p.dilation_w;", "+ kx;"),
    "thresholds of the first plane, first layer": Mutation(STEM, "s.threshold[plane * oc + own]", "s.threshold[own]"),
    "stores pixels behind the last": Mutation(STEM, "live && i < pixels) store", "live) store"),
}  # fmt: skip


def random_bits(*shape: int) -> Tensor:
    """With a word between pixels."""
    words = pack_bits(torch.rand(shape) < 0.5)
    return torch.cat([words, torch.full_like(words[..., :1], 0x5A5A5A5A)], -1)[..., :-1]


def check_pack(library, name: str) -> None:
    x, gate = torch.randn(2, 70, 3, 13), torch.randn(2, 70, 1, 1)
    threshold = torch.randn(2, 70)
    threshold[1] = (x * gate)[1, :, 1, 2]  # met exactly
    flip = torch.randint(-(2**31), 2**31, (2, 3)).to(torch.int32)
    for view in (x, x.to(memory_format=torch.channels_last)):
        assert torch.equal(
            flat.pack(library, name, view, threshold, flip, gate),
            reference.pack(view, threshold, flip, gate),
        )


def check_unpack(library, name: str) -> None:
    bits = random_bits(2, 5, 9, 40)
    assert torch.equal(flat.unpack(library, name, bits, 40), reference.unpack(bits, 40))


def check_join_bits(library, name: str) -> None:
    channels, sizes = (12, 40, 32), [(6, 8), (2, 3), (4, 1)]
    parts = [random_bits(2, 6, 8, count) for count in channels]
    joined = flat.join_bits(library, name, torch.cat(parts, -1), channels)
    assert torch.equal(joined, reference.join_bits(parts, channels))
    corners = [part[:, :height, :width] for part, (height, width) in zip(parts, sizes, strict=True)]
    joined = flat.join_bits(library, name, torch.cat(parts, -1), channels, sizes, (5, 7))
    brought = [reference.join([corner], (5, 7)) for corner in corners]
    assert torch.equal(joined, reference.join_bits(brought, channels))


def check_max_pool2d(library, name: str) -> None:
    arguments = random_bits(2, 7, 10, 352)[..., :8], (3, 2), (2, 3), (1, 0), (1, 2), True
    assert torch.equal(flat.max_pool2d(library, name, *arguments), reference.max_pool2d(*arguments))


def check_stem(library, name: str) -> None:
    options: dict[str, Any] = {"relu": True, "dtype": torch.bfloat16}
    for channels, padding, dilation in ((3, (1, 1), (1, 1)), (1, (2, 1), (2, 2))):
        geometry = (1, 1), padding, dilation
        x, weight = torch.randn(1, channels, 5, 11), torch.randn(40, channels, 3, 3)
        affine, tiled = torch.randn(2, 2, 40), F.tile_stem_weight(weight)
        y, _ = F.stem_stream(x, tiled, affine, None, *geometry, **options)
        threshold = y[0, :, 1:3, 2].float().T.contiguous()  # met exactly by what is stored
        expected = F.stem_stream(x, tiled, affine, threshold, *geometry, **options)
        found = flat.stem(library, name, x, weight, affine, threshold, None, *geometry, **options)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


CHECKS: dict[str, Callable[..., None]] = {
    CHANNELS: check_pack, PIXELS: check_pack, UNPACK: check_unpack, JOIN: check_join_bits, POOL: check_max_pool2d,
    STEM: check_stem,
}  # fmt: skip


def build_kernels(kernel: str, folder, host_objects, mutation: Mutation | None = None):
    """The file of a kernel alone."""
    path = next(line.source for line in build.kernels() if line.name == kernel)
    text = path.read_text()
    if mutation:
        assert text.count(mutation.text) == 1, f"{mutation.text!r} is not in {path.name} exactly once"
        text = text.replace(mutation.text, mutation.replacement)
    source = folder / path.name
    source.write_text(text)
    return build.link([*host_objects, *build.compile_all([source], folder)], folder / "kernels.so")


@pytest.mark.parametrize("name", CHECKS)
def test_undamaged_kernels_pass(name, host_objects, tmp_path):
    CHECKS[name](build_kernels(name, tmp_path, host_objects), name)


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_noticed(name, host_objects, tmp_path):
    mutation = MUTATIONS[name]
    library = build_kernels(mutation.kernel, tmp_path, host_objects, mutation)
    with pytest.raises((AssertionError, RuntimeError)):
        CHECKS[mutation.kernel](library, mutation.kernel)


def test_every_file_over_a_flat_list_is_damaged():
    damaged = {line.file for line in build.kernels() if line.name in {m.kernel for m in MUTATIONS.values()}}
    assert damaged == {line.file for line in build.kernels() if re.search("__sm75$", line.file)}
