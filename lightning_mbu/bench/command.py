"""The options of `mbu bench`, and what becomes of its results."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ..atomic import write_atomically
from ..commands.options import image_size, json_object
from .isa import ISAS

DESCRIPTION = (
    "Time packed networks against the same networks in float and eight bits, here, in every runtime that is "
    "installed. Without a model: the standard set (MBUNet varied in threads, size and shortcuts, two other "
    "U-Nets, its layers, its memory)."
)
_BLOCKS = (32, 32)  # what kernels that read bits can skip; amx_int8 where two lie side by side


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `mbu bench`; the suite itself is imported only when it runs."""
    add = parser.add_argument
    add("models", nargs="*", metavar="model", help="mbunet, mbunet-shortcuts, mbunet-int8-stream, unet-resnet34, unet-classic, "
        "module:function or Architecture/encoder")  # fmt: skip
    add("--size", type=image_size, nargs="+", default=[(256, 256)], metavar="SIZE",
        help="of the image, pixels: 256, or height x width as 512x1024; 256 without")  # fmt: skip
    add("--threads", type=int, nargs="+", default=[1], help="numbers of processor threads")
    add("--channels", type=int, default=3, help="channels of the image")
    add("--arguments", type=json_object, default={}, help="of the model, as JSON: '{\"width\": 32}'")
    add("--planes", type=int, default=1, metavar="N",
        help="thresholds per channel of the packed network, at N times its one-bit operations")  # fmt: skip
    add("--block-density", type=float, default=1.0, metavar="SHARE",
        help="share of all blocks of 32x32 weights that are present in the packed network; kernels skip the others")  # fmt: skip
    add("--layers", action="store_true", help="also time every packed convolution by itself")
    add("--memory", action="store_true", help="also measure the memory of one inference")
    add("--no-rivals", action="store_true", help="leave out other quantizers and runtimes")
    add("--isa", choices=ISAS, default="native",
        help="hold every candidate to an older instruction set")  # fmt: skip
    add("--kernel", help="CPU kernel of the packed network, see mbu doctor")
    add("--repeats", type=int, default=15, help="rounds of timing")
    add("--budget", type=float, default=6.0, help="seconds of timing per comparison; at least 3 rounds")
    add("--tolerance", type=float, default=1e-3, metavar="SHARE",
        help="largest difference between eager and compiled that is still timed, of the largest output; compiled, attention "
        "rounds otherwise, and a bit at its threshold may change")  # fmt: skip
    add("--quick", action="store_true", help="every kind of measurement once on small images, to see it work")
    add(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="print the results as JSON, or write them to a file",
    )
    add("--plot", metavar="FILE", help="write a figure, .svg or .png")
    add("--results", metavar="FOLDER", help="write cpu.md, cpu.json and cpu.svg into this folder")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the jobs, shows the tables, writes the files; nothing is written unless all is done.

    Raises:
        ValueError: an option that cannot be, candidates that disagree, or nothing that could be measured.
        ImportError: a plot is asked for and matplotlib is missing.
        FileNotFoundError: the folder of a file to write does not exist.
    """
    outputs = _outputs(options)
    counts = (*options.threads, options.channels, options.planes, options.repeats)
    if min(counts) < 1 or options.budget <= 0 or options.tolerance <= 0:
        raise ValueError(
            "--threads, --channels, --planes, --repeats, --budget and --tolerance must all be above 0."
        )

    if not 0 < options.block_density <= 1:
        raise ValueError(
            f"--block-density {options.block_density} must be a share of the blocks, above 0 and up to 1."
        )

    from . import show, suite
    from .child import Job

    if any(kind in ("svg", "png") for kind, _ in outputs):
        from .rivals import require

        require("matplotlib")
    if options.arguments and not options.models:
        raise ValueError("--arguments needs the model that takes them; name one.")
    base = Job(
        "compare", "", options.arguments, channels=options.channels, planes=options.planes, isa=options.isa, kernel=options.kernel,
        mask_blocks=None if options.block_density == 1 else _BLOCKS, block_density=options.block_density,
        repeats=options.repeats, budget_s=options.budget, rivals=not options.no_rivals,
        tolerance=options.tolerance,
    )  # fmt: skip
    if options.models:
        jobs = suite.grid_jobs(
            base,
            options.models,
            [f"{h}x{w}" for h, w in options.size],
            options.threads,
            options.layers,
            options.memory,
        )
    else:
        jobs = suite.quick_jobs(base) if options.quick else suite.standard_jobs(base)
    results = suite.run_jobs(jobs, console)
    show.show(results, console)
    for kind, path in outputs:
        write_atomically(path, _encoded(results, kind))
        console.print(f"wrote {path}", highlight=False)
    if options.json == "-":
        print(json.dumps(results))
    return 0


def _outputs(options: argparse.Namespace) -> list[tuple[str, Path]]:
    """Kind and path of every file to write, checked before hours of work rather than after."""
    found = []
    if options.json and options.json != "-":
        found.append(("json", Path(options.json)))
    if options.plot:
        path = Path(options.plot)
        if path.suffix not in (".svg", ".png"):
            raise ValueError(f"--plot {path}: the name must end in .svg or .png.")
        found.append((path.suffix[1:], path))
    if options.results:
        folder = Path(options.results)
        found += [(kind, folder / f"cpu.{kind}") for kind in ("json", "svg", "md")]
    for _, path in found:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder {path.parent} does not exist; create it, or choose another.")
    return found


def _encoded(results: dict[str, Any], kind: str) -> bytes:
    from . import plot, show

    if kind == "json":
        return (json.dumps(results, indent=1) + "\n").encode()
    if kind == "md":
        return show.markdown(results, "cpu.svg").encode()
    return plot.draw(results, kind)
