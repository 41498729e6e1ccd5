"""The console command `mbu`: parses and calls, nothing else."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from .bench.command import DESCRIPTION as BENCH_DESCRIPTION
from .bench.command import add_options as add_bench_options
from .commands import options as packing
from .commands.completion import SHELLS, PrintCompletion
from .commands.help_format import HelpFormatter
from .explore import command as explore
from .scene_options import add_ablation_options, add_report_options

# Threads that spin while they wait slow everything down on a machine that does something else as well.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EPILOG = (
    "A model is module:function, file.py:function or Architecture/encoder, such as Unet/resnet34. Exit status: 0 done, "
    "1 tested and found wrong, 2 not possible as asked, 130 stopped. MBU_TRACEBACK=1 shows where an error comes from. Example: mbu plan "
    "Unet/resnet34 --size 512"
)

_WIDTH = 150  # characters of a line where nobody says
# What a user's mistake raises; anything else is ours and keeps its traceback.
_MISTAKES = (ValueError, TypeError, OSError, ImportError, AttributeError, RuntimeError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `mbu`; returns the exit status.

    0 done, 1 tested and found wrong (bits, a kernel), 2 not possible as asked, 130 stopped with Ctrl-C.
    """
    try:
        return _run(arguments)
    except BrokenPipeError:
        # Whoever read the output (`| head`) has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    # JSON on standard output stands alone there.
    aside = getattr(options, "json", None) in (True, "-")
    # Into a file or a pipe tables go in full: 80 columns, which rich takes for those, would break their lines.
    terminal = (sys.stderr if aside else sys.stdout).isatty() or "COLUMNS" in os.environ
    console = Console(stderr=aside, width=None if terminal else _WIDTH)
    collects = gc.isenabled()
    if options.command == "plan":
        gc.disable()  # most of its time are imports, and what they make is no garbage
    try:
        return options.run(options, console)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped.")
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        # Lightning's own kind of ValueError goes by its name: importing it would take seconds.
        expected = isinstance(error, _MISTAKES) or type(error).__name__ == "MisconfigurationException"
        if os.environ.get("MBU_TRACEBACK") or not expected:
            raise
        # No markup: names in square brackets are the user's.
        words = "\n".join([str(error), *getattr(error, "__notes__", [])])
        line = Text.assemble((f"mbu {options.command}: ", "bold red"), words)
        Console(stderr=True, soft_wrap=True).print(line)
        return 2
    finally:
        if collects:
            gc.enable()


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, without the list of options that argparse puts in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mbu", description="Masked-binary segmentation networks: plan, train, pack, verify, time, show.",
        epilog=EPILOG,
    )  # fmt: skip
    parser.add_argument(
        "--print-completion", choices=SHELLS, action=PrintCompletion,
        help='for your shell: eval "$(mbu --print-completion bash)"',
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(
        name: str, run: Callable[[Any, Console], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, formatter_class=HelpFormatter, epilog=f"Example: {example}"
        )
        added.set_defaults(run=run)
        return added

    demo = command(
        "demo", _demo, "Train, convert, prove, compile and time a real small job; ends with a web page.",
        "mbu demo --data nuclei --output mbu-demo",
    )  # fmt: skip
    _add_demo_options(demo)
    plan = command(
        "plan", _call("commands.plan"),
        "Show which layers of a model would become one-bit, and whether it is worth it, here.",
        "mbu plan Unet/resnet34 --size 512",
    )  # fmt: skip
    packing.add_plan_options(plan)
    packing.add_summary_options(
        command("summary", _call("commands.summary"), packing.SUMMARY, packing.SUMMARY_EXAMPLE)
    )
    packing.add_train_options(command("train", _call("commands.train"), packing.TRAIN, packing.TRAIN_EXAMPLE))
    packing.add_convert_options(
        command("convert", _call("commands.packing", "run_convert"), packing.CONVERT, packing.CONVERT_EXAMPLE)
    )
    packing.add_verify_options(
        command("verify", _call("commands.packing", "run_verify"), packing.VERIFY, packing.VERIFY_EXAMPLE)
    )
    packing.add_predict_options(
        command("predict", _call("commands.predict"), packing.PREDICT, packing.PREDICT_EXAMPLE)
    )
    add_bench_options(
        command("bench", _call("bench.command"), BENCH_DESCRIPTION, "mbu bench unet-resnet34 --size 256 512")
    )
    explore.add_study_options(
        command("study", explore.study, explore.STUDY, "mbu study pareto --data nuclei --quick")
    )
    explore.add_sweep_options(
        command("sweep", explore.sweep, explore.SWEEP, "mbu sweep --data nuclei --set lr=1e-3:1e-2:log")
    )
    add_report_options(
        command(
            "report", _call("scenes.report"),
            "Score, count and time a packed network of a data set; one page.",
            "mbu report camvid.mbu --model lightning_mbu.models:BiSegUNet --dataset camvid --root CamVid --size 288x384",
        )
    )  # fmt: skip
    add_ablation_options(
        command(
            "ablation", _call("scenes.ablation"),
            "Train the variants of a table of the BiSegUNet paper, and compare them.",
            "mbu ablation table9 --root CamVid --epochs 60",
        )
    )  # fmt: skip
    export = command(
        "export", _call("commands.export"),
        "Compile a packed model into a .pt2 package that runs without Python.", "mbu export net.mbu net.pt2 --size 512",
    )  # fmt: skip
    export.add_argument("model", help="file written by save, or folder written by save_pretrained")
    export.add_argument("output", type=Path, help="file to write, ending in .pt2")
    packing.add_size(export, "of the example input", (256, 256))
    export.add_argument("--json", action="store_true", help="print what was written as JSON")
    doctor = command("doctor", _doctor, "Show what this machine can run, and test its kernels.", "mbu doctor")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument("--library", action="store_true", help="list the compiled CUDA kernels instead")
    return parser


def _call(module: str, function: str = "run") -> Callable[[Any, Console], int]:
    """A command whose code is imported only when it runs."""
    return lambda options, console: getattr(import_module(f".{module}", __package__), function)(
        options, console
    )


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    from .demo_settings import DemoSettings, field_help

    for field in fields(DemoSettings):
        short = ["-o"] if field.name == "output" else []
        kind = {"int": int, "float": float}.get(str(field.type).partition(" ")[0], str)
        parser.add_argument(
            *short,
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            help=field_help(field.name),
        )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def _demo(options: argparse.Namespace, console: Console) -> int:
    import json

    from .demo.run import run_demo
    from .demo_settings import DemoSettings

    settings = DemoSettings(**{field.name: getattr(options, field.name) for field in fields(DemoSettings)})
    results = run_demo(settings, console)
    if options.json:
        print(json.dumps(results))
    return 0


def _doctor(options: argparse.Namespace, console: Console) -> int:
    from .doctor import show_doctor, show_library

    if options.library:
        show_library(console, options.json)
        return 0
    return 0 if show_doctor(console, options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
