"""The job `files`: packed files that are damaged, cut, or written by somebody who means harm.

A mutant whose checksum is wrong must be refused, or yield the numbers of the original. One with a right checksum must be
refused or loaded, and a loaded one may raise when it runs; neither may stop the process, take memory out of
proportion, or hang.
"""

from __future__ import annotations

import base64
import json
import random
import resource
import struct
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lightning_mbu import load
from lightning_mbu.deploy.files import _digest, _inflate
from lightning_mbu.deploy.guards import PackedFileError

from .job import Report

SAMPLES = Path(__file__).resolve().parents[1] / "deploy" / "samples"
ROOM = (
    3 * 2**29
)  # bytes beyond what the process had before: any proportionate mutant of a few KB needs far less
PROGRAM = "x=__import__('os')._exit(66)"
HOSTILE: list[Any] = [
    0, -1, 1, 2, 3, 2**31, 2**32, 2**62, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), True, False,
    None, "", "x", "..", "__class__", "forward", "self", "aten.from_file.default", "mbu.conv2d.default",
    "operator.mul", PROGRAM, f'x"), ({PROGRAM[2:]}, "', "a" * 5000, [], {}, [[[[[]]]]], [2**40] * 3, [0, 2**62],
    {"node": 0}, {"node": 2**40}, {"node": -1}, {"device": "cuda:7"}, {"device": "meta"}, {"dtype": "float64"},
    {"dtype": "load"}, {"map": {PROGRAM: 1}}, {"map": {"out": 1}}, {"float": "nan"}, {"unknown": 1},
]  # fmt: skip


def write(path: Path, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """A packed file with a right checksum, whatever it says."""
    if isinstance(description, dict) and set(tensors) >= {"constants", "weights"}:
        description["sha256"] = _digest(description, tensors)
    header = base64.b64encode(zlib.compress(json.dumps(description).encode())).decode()
    path.write_bytes(safetensors.torch.save(tensors, {"mbu": header}))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(_inflate(file.metadata()["mbu"])), tensors


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container in a tree with each of its keys."""
    found: list[tuple[Any, Any]] = []
    open_ = [tree]
    while open_:
        node = open_.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        for key in keys:
            found.append((node, key))
            open_.append(node[key])
    return found


def damage(data: bytes, r: random.Random) -> bytes:
    """What disks, networks and half-finished copies do."""
    changed = bytearray(data)
    kind = r.randrange(6)
    if kind == 0:
        for _ in range(r.choice([1, 1, 2, 8])):
            changed[r.randrange(len(data))] ^= 1 << r.randrange(8)
    elif kind == 1:
        del changed[r.randrange(len(data)) :]
    elif kind == 2:
        start = r.randrange(len(data))
        del changed[start : start + r.randrange(1, 64)]
    elif kind == 3:
        start = r.randrange(len(data))
        changed[start:start] = r.randbytes(r.randrange(1, 64))
    elif kind == 4:
        start, length = r.randrange(len(data)), r.randrange(1, 256)
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    else:
        changed[:8] = struct.pack("<Q", r.choice([0, 1, 7, len(data), 2**31, 2**63, r.randrange(len(data))]))
    return bytes(changed)


def forge(path: Path, source: Path, r: random.Random) -> None:
    """A file with a right checksum that says something else than the original."""
    description, tensors = read(source)
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        kind = r.randrange(8)
        if kind == 0:
            name = r.choice(["constants", "weights"])
            data = tensors[name]
            tensors[name] = r.choice([
                lambda t: t[: len(t) // 2], lambda t: torch.cat([t, t]), lambda t: t[:0], lambda t: t.view(torch.int8),
                lambda t: t[None], lambda t: torch.randint(0, 256, t.shape, dtype=torch.uint8),
            ])(data).contiguous()  # fmt: skip
        elif kind == 1:
            tensors[r.choice(["more", "constants "])] = torch.zeros(r.choice([0, 1, 100]), dtype=torch.uint8)
        else:
            owner, key = r.choice(_places(description))
            action = r.randrange(4)
            if action == 0 and isinstance(owner, dict):
                owner[r.choice(["extra", PROGRAM, "groups", "shape", "version"])] = owner.pop(key)
            elif action == 1 and isinstance(owner, list):
                owner.insert(key, r.choice([owner[key], r.choice(HOSTILE)]))
            elif action == 2 and isinstance(owner, list):
                del owner[key]
            else:
                value = owner[key]
                near = [value + 1, value - 1, value * 32, -value] if isinstance(value, int) else HOSTILE
                owner[key] = json.loads(json.dumps(r.choice(near if r.random() < 0.5 else HOSTILE)))
    write(path, description, tensors)


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


@torch.no_grad()
def run(report: Report, count: int, number: int) -> None:
    torch.set_num_threads(1)
    sources = sorted(SAMPLES.glob("*.mbu"))
    assert sources, "no samples"
    originals = {}
    for source in sources:
        model = load(source)
        x = torch.randn(1, model.input_spec.channels, *[4 * model.input_spec.multiple] * 2)
        originals[source] = source.read_bytes(), x, model(x)
    r, seen = random.Random(number), Counter()
    _limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutant.mbu")
        for done in range(count):
            source = r.choice(sources)
            data, x, expected = originals[source]
            forged = r.random() < 0.5
            state = r.getstate()
            if forged:
                try:
                    forge(path, source, r)
                except (ValueError, OverflowError, TypeError, KeyError, AttributeError):
                    continue  # a mutant that cannot be written down
            else:
                path.write_bytes(damage(data, r))
            report.keep(f"{done} from {source.name}, state {hash(state)}: {path.read_bytes()[:600]!r}")
            try:
                model = load(path)
            except PackedFileError as error:
                assert str(path) in str(error), f"does not name the file: {error}"
                assert "allocate" not in str(error), f"asked for too much memory: {error}"
                seen["refused"] += 1
            else:
                _use(model, x, expected, forged, seen)
            report.progress(done)
    report.result(
        f"{sum(seen.values())} mutants of {len(sources)} files: "
        + ", ".join(f"{n} {k}" for k, n in seen.items())
    )


def _use(model: Any, x: Tensor, expected: Tensor, forged: bool, seen: Counter[str]) -> None:
    if not forged:
        assert torch.equal(model(x), expected), "damaged, accepted, and other numbers"
        seen["unharmed: the same numbers"] += 1
        return
    try:
        same = torch.equal(model(x), expected)
    except Exception:  # noqa: BLE001 (a strange graph may raise anything; it must not stop the process)
        seen["forged, loaded, raised when run"] += 1
    else:
        seen["forged, loaded, same numbers" if same else "forged, loaded, its own numbers"] += 1
