"""What hostile files tried, one by one: each is refused by name, runs nothing, and takes no memory to speak of."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import mbu_ops._library

if not mbu_ops._library.AVAILABLE:
    pytest.skip("this install has no kernels", allow_module_level=True)

from lightning_mbu import load, save
from lightning_mbu.deploy import PackedFileError

from .files import SAMPLES, read, write

SOURCE = SAMPLES / "version-2.mbu"


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.mbu")), ids=lambda path: path.stem)
def test_files_of_every_version_give_their_numbers(sample: Path, tmp_path: Path) -> None:
    known = safetensors.torch.load_file(sample.with_suffix(".safetensors"))
    model = load(sample)
    again = load(save(model, tmp_path / "again.mbu"))
    with torch.no_grad():
        assert torch.equal(model(known["x"].float()), known["logits"])
        assert torch.equal(again(known["x"].float()), known["logits"])


def change(tmp_path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    """A sample with something else in it, and a right checksum."""
    description, tensors = read(SOURCE)
    edit(description, tensors)
    path = tmp_path / "forged.mbu"
    write(path, description, tensors)
    return path


def rename(description: dict[str, Any], old: str, new: str) -> None:
    """A constant or weight, wherever it is named."""
    for entry in description["constants"]:
        entry[0] = new if entry[0] == old else entry[0]
    for node in description["nodes"]:
        node[1] = new if node[1] == old else node[1]


def first(description: dict[str, Any], kind: str) -> list[Any]:
    return next(node for node in description["nodes"] if node[0] == kind)


def test_names_are_no_programs(tmp_path: Path) -> None:
    """torch.fx writes names into the source of `forward`."""
    marker = tmp_path / "ran"
    program = f"open({str(marker)!r}, 'w')"
    encoded = f"exec(bytes({list(program.encode())}))"
    name = first(read(SOURCE)[0], "get_attr")[1]
    edits: list[Callable[[Any, Any], object]] = [
        lambda d, t: first(d, "placeholder").__setitem__(1, f"x={program}"),
        lambda d, t: first(d, "output").__setitem__(1, f"output, {program}"),
        lambda d, t: rename(d, name, f'x", {encoded}) or ("'),
        lambda d, t: d["layers"][0].update(tiles=f'x", {encoded}) or ("'),
        lambda d, t: first(d, "call_function").__setitem__(3, {"map": {f"x={program}, y": 1}}),
        lambda d, t: first(d, "call_function").__setitem__(1, f"aten.relu.default({program})"),
    ]
    for edit in edits:
        path = change(tmp_path, edit)
        with pytest.raises(PackedFileError, match="forged.mbu"):
            load(path)(torch.zeros(1, 3, 16, 16))
        assert not marker.exists()


def node(d: dict[str, Any], operation: str) -> list[Any]:
    return next(n for n in d["nodes"] if str(n[1]).startswith(operation))


CASES: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "a binary layer as large as memory": (
        lambda d, t: d["layers"][0].update(kind="binary", shape=[2**20, 3, 3, 8]), "its data end at byte"),
    "groups that unpack to terabytes": (
        lambda d, t: d["layers"][0].update(shape=[2**20, 1, 1, 1], groups=2**20, segments=[2**20]), "may ask for"),
    "segments that do not add up": (lambda d, t: d["layers"][0].update(segments=[7]), "do not fit together"),
    "groups of zero": (lambda d, t: d["layers"][0].update(groups=0), "a number of groups is 0"),
    "a size below zero": (lambda d, t: d["layers"][0].update(shape=[-1, 3, 3, 8]), "a size of a weight is -1"),
    "a size that is no number": (lambda d, t: d["constants"][0].__setitem__(2, ["8"]), "must be a whole number"),
    "a type that is none": (lambda d, t: d["constants"][0].__setitem__(1, "complex64"), "complex64"),
    "bytes that nobody names": (
        lambda d, t: t.update(constants=torch.cat([t["constants"], torch.zeros(1, dtype=torch.uint8)])), "names"),
    "another tensor": (lambda d, t: t.update(more=torch.zeros(9, dtype=torch.uint8)), "it holds .*more"),
    "a row of floats": (lambda d, t: t.update(weights=t["weights"].float()), "it must be a row of bytes"),
    "multiples of zero": (lambda d, t: d["input"].update(multiple=0), "multiples of is 0"),
    "no version": (lambda d, t: d.pop("version"), "version"),
    "a version that is no number": (lambda d, t: d.update(version=float("nan")), "its format version is nan"),
    "two images": (lambda d, t: d["nodes"].insert(0, ["placeholder", "y", [], {"map": {}}]), "one input"),
    "no end": (lambda d, t: d["nodes"].pop(), "one output at its end"),
    "an option that does not exist": (
        lambda d, t: node(d, "mbu.").__setitem__(3, {"map": {"far": 1}}), "which it does not take"),
    "arithmetic on words": (
        lambda d, t: d["nodes"].insert(1, ["call_function", "operator.mul", ["a", 10**12], {"map": {}}]), "takes numbers"),
    "a file to read": (
        lambda d, t: d["nodes"].insert(1, ["call_function", "aten.from_file.default", ["/etc/passwd"], {"map": {}}]),
        "not a pure function"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path) -> None:
    edit, words = CASES[case]
    path = change(tmp_path, edit)
    with pytest.raises(PackedFileError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_description_that_grows_is_stopped(tmp_path: Path) -> None:
    """64 MiB of zeros are 64 KiB in a file, and would be gigabytes of Python objects."""
    header = base64.b64encode(zlib.compress(b"[" + b"[]," * 2**24 + b"[]]", 9)).decode()
    path = tmp_path / "bomb.mbu"
    path.write_bytes(safetensors.torch.save(read(SOURCE)[1], {"mbu": header}))
    tracemalloc.start()
    try:
        with pytest.raises(PackedFileError, match="its description is larger than"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * 64 * len(header)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [500, 100_000])
def test_nested_lists_do_not_end_the_process(depth: int, tmp_path: Path) -> None:
    header = base64.b64encode(zlib.compress(b"[" * depth + b"]" * depth)).decode()
    path = tmp_path / "deep.mbu"
    path.write_bytes(safetensors.torch.save(read(SOURCE)[1], {"mbu": header}))
    with pytest.raises(PackedFileError, match="deep.mbu"):
        load(path)


def test_a_checksum_covers_both_tensors_and_the_description(tmp_path: Path) -> None:
    description, tensors = read(SOURCE)
    path = tmp_path / "net.mbu"
    for name in tensors:
        changed = {**tensors, name: tensors[name].roll(1)}
        header = base64.b64encode(zlib.compress(json.dumps(description).encode())).decode()
        path.write_bytes(safetensors.torch.save(changed, {"mbu": header}))
        with pytest.raises(PackedFileError, match="checksum"):
            load(path)
