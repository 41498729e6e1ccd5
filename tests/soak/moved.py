"""Packed files that move between processors of different kinds, with what every operation gave.

PYTHONPATH=tests python -m soak.moved write FOLDER     # on one machine
PYTHONPATH=tests python -m soak.moved check FOLDER     # on the other one, for each of its kernels
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.fx import Interpreter, Node

from lightning_mbu import convert, load, make_plan, prepare, save
from lightning_mbu.deploy.packed import PackedModel
from lightning_mbu.models import MBUNet
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

NETWORKS: dict[str, dict[str, Any]] = {  # arguments of MBUNet
    "chain": {"width": 24},
    "shortcuts": {"width": 16, "shortcuts": True},
    "bfloat16": {"width": 16, "shortcuts": True, "stream_dtype": "bfloat16"},
    "int8": {"width": 16, "shortcuts": True, "stream_dtype": "int8"},
}
CLOSE = 1e-5  # of logits: their sums over channels are added in each kernel's own order
SIZES = ((2, 3, 64, 96), (1, 3, 48, 80))


class _Results(Interpreter):
    """Runs a packed graph and keeps what this library's operations give: bits, sums and float streams."""

    def __init__(self, packed: PackedModel):
        super().__init__(packed.graph_module)
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if str(n.target).startswith("mbu."):
            for k, value in enumerate(result if isinstance(result, (tuple, list)) else [result]):
                what = "logits" if n.kwargs.get("head") is not None else n.target
                self.found[f"{len(self.found)} {what} {k}"] = value.contiguous()
        return result


def results(packed: PackedModel, images: Tensor) -> dict[str, Tensor]:
    """Every operation's results in their order."""
    interpreter = _Results(packed)
    interpreter.run(images)
    return interpreter.found


@torch.no_grad()
def write(folder: Path) -> None:
    """Networks with random weights and statistics, packed, and their results at two sizes."""
    torch.manual_seed(0)
    for name, arguments in NETWORKS.items():
        model = MBUNet(**arguments)
        prepare(model, make_plan(model, torch.empty(1, 3, 64, 64)))
        for _ in range(3):  # statistics of batch norms
            model(torch.randn(4, 3, 64, 64))
        packed = convert(model.eval(), torch.randn(1, 3, 64, 64))
        save(packed, folder / f"{name}.mbu")
        for k, size in enumerate(SIZES):
            images = torch.randn(size)
            save_file({"images": images, **results(packed, images)}, folder / f"{name}.{k}.safetensors")


@torch.no_grad()
def check(folder: Path) -> Iterator[str]:
    """Loads what was written and computes it again; a line for each network and kernel.

    Raises:
        AssertionError: a bit or a float differs.
    """
    for name in NETWORKS:
        for kernel in (kernel.name for kernel in cpu_kernels() if kernel.available):
            with use_cpu_kernel(kernel):
                packed, compared = load(folder / f"{name}.mbu"), 0
                for k in range(len(SIZES)):
                    expected = load_file(folder / f"{name}.{k}.safetensors")
                    found = results(packed, expected.pop("images"))
                    assert found.keys() == expected.keys(), f"{name}, {kernel}: other operations"
                    for what, value in found.items():
                        if "logits" in what:
                            torch.testing.assert_close(value, expected[what], rtol=CLOSE, atol=CLOSE)
                        else:
                            assert torch.equal(value, expected[what]), f"{name}, {kernel}: {what} differs"
                            compared += value.numel()
            yield f"{name}, {kernel}: {compared:,} numbers equal"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak.moved", description=__doc__)
    parser.add_argument("what", choices=["write", "check"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}")
    if options.what == "write":
        write(options.folder)
    else:
        for line in check(options.folder):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
