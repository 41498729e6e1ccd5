"""`mbu doctor` on a terminal: what this machine runs, and what the library carries."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading)
    return table


def show_doctor(console: Console, as_json: bool) -> bool:
    """Prints the findings of `mbu_ops.doctor`; returns whether every self-test passed."""
    import torch

    from mbu_ops.doctor import doctor

    from .timing import conditions

    findings: dict[str, Any] = {
        "conditions": conditions(torch.device("cpu"), torch.get_num_threads()),
        **doctor(),
    }
    tested = [kernel["self_test"] for kernel in (*findings["cpu_kernels"], *findings["gpus"])]
    if as_json:
        print(json.dumps(findings))
        return False not in tested
    for name, value in findings["conditions"].items():
        console.print(f"{name}: {value}", highlight=False)
    table = _table(
        "CPU kernels (MBU_CPU_KERNEL=name forces one)",
        "name", "instruction set", "weights", "available", "chosen", "bit-exact",
    )  # fmt: skip
    for kernel in findings["cpu_kernels"]:
        flags = (_yes(kernel[k]) for k in ("available", "selected", "self_test"))
        table.add_row(kernel["name"], kernel["isa"], kernel["layout"], *flags)
    console.print(table)
    _show_gpus(console, findings)
    for sentence in findings["advice"]:
        console.print(f"- {sentence}", highlight=False)
    return False not in tested


def _show_gpus(console: Console, findings: dict[str, Any]) -> None:
    images, driver = findings["images"], findings["driver"]
    carried = ", ".join(f"{target} ({count})" for target, count in images.items()) or "none, sources alone"
    console.print(f"Compiled CUDA kernels in the library: {carried}", highlight=False)
    if not driver["version"]:
        console.print(f"No GPU is used: {driver['why']}", highlight=False)
        return
    major, minor = divmod(driver["version"] // 10, 100)
    console.print(f"NVIDIA driver for CUDA {major}.{minor}, {driver['devices']} device(s)", highlight=False)
    table = _table(
        "GPUs", "device", "capability", "convolutions", "kernels with a route", "without", "bit-exact"
    )
    for gpu in findings["gpus"]:
        capability = f"{gpu['capability'] // 10}.{gpu['capability'] % 10}"
        families = ", ".join(gpu["families"]) or "float operations of torch"
        table.add_row(
            f"{gpu['index']}: {gpu['name']}", capability, families, str(len(gpu["routes"])),
            str(len(gpu["refusals"])), _yes(gpu["self_test"]),
        )  # fmt: skip
    console.print(table)
    for gpu in findings["gpus"]:
        _show_routes(console, gpu)
        _show_fallbacks(console, gpu)
        _show_choices(console, gpu)


def _show_routes(console: Console, gpu: dict[str, Any]) -> None:
    """How the kernels of each file reach the card, and why others do not."""
    from mbu_ops.cuda import cuda_kernels

    files: dict[tuple[str, str, str], int] = {}
    for kernel in cuda_kernels():
        usable = kernel.name in gpu["routes"]
        why = "" if usable else gpu["refusals"][kernel.name]
        key = kernel.stem, gpu["routes"][kernel.name] if usable else "none", why
        files[key] = files.get(key, 0) + 1
    table = _table(f"Kernels on {gpu['index']}: {gpu['name']}", "file", "kernels", "route", "why not")
    for (stem, route, why), count in files.items():
        table.add_row(stem, str(count), route, why)
    console.print(table)


def _show_fallbacks(console: Console, gpu: dict[str, Any]) -> None:
    """What torch runs there, operation by operation."""
    if gpu["self_test"] is None:
        console.print(f"{gpu['name']}: this torch cannot use it, so no operation was tried", highlight=False)
        return
    if not gpu["fallbacks"]:
        console.print(f"{gpu['name']}: every operation has a kernel", highlight=False)
        return
    table = _table(f"Operations that torch runs on {gpu['index']}: {gpu['name']}", "operation", "why")
    for name, why in gpu["fallbacks"].items():
        table.add_row(name, why)
    console.print(table)


def _show_choices(console: Console, gpu: dict[str, Any]) -> None:
    """What the timed search measured on a card, beside what the library's table predicts."""
    if not gpu["choices"]:
        console.print(
            f"{gpu['name']}: kernels by the library's table; MBU_CUDA_SEARCH=1 times them per layer",
            highlight=False,
        )
        return
    title = f"Measured on {gpu['name']} (taken with MBU_CUDA_SEARCH=1)"
    table = _table(title, "layer", "fastest", "us", "predicted", "us")
    for choice in gpu["choices"]:
        names = choice["fastest"], choice["predicted"]
        table.add_row(choice["layer"], *(text for n in names for text in (n, f"{choice['times'][n]:.1f}")))
    console.print(table)


def show_library(console: Console, as_json: bool) -> None:
    """Prints every CUDA kernel of the library with the targets that it is compiled for."""
    from mbu_ops.cuda import cuda_images, cuda_kernels

    images = cuda_images()
    kernels = [
        {
            "name": kernel.name,
            "compiled": [image.target for image in images if image.stem == kernel.stem],
            "shared_bytes": kernel.shared_bytes,
        }
        for kernel in cuda_kernels()
    ]
    if as_json:
        print(json.dumps({"kernels": kernels, "bytes": sum(image.size for image in images)}))
        return
    table = _table("CUDA kernels in the library", "name", "compiled for", "shared memory, bytes")
    for kernel in kernels:
        compiled = " ".join(kernel["compiled"]) or "source alone (NVRTC)"
        table.add_row(kernel["name"], compiled, str(kernel["shared_bytes"]))
    console.print(table)
    console.print(f"{len(images)} images, {sum(image.size for image in images)} bytes", highlight=False)
