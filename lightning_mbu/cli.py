"""The console command `mbu`: parses and calls, nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console

from .bench.command import DESCRIPTION as BENCH_DESCRIPTION
from .bench.command import add_options as add_bench_options
from .commands import options as packing
from .explore import command as explore
from .scene_options import add_ablation_options, add_report_options

# Threads that spin while they wait slow everything down on a machine that does something else as well.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `mbu`; returns the exit status: 0 done, 1 not possible, 2 wrong usage, 130 stopped with Ctrl-C."""
    options = _parser().parse_args(arguments)
    # JSON on standard output stands alone there; `bench` writes its own to a file.
    console = Console(stderr=getattr(options, "json", None) is True)
    try:
        return options.run(options, console)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. Nothing was written.")
        return 130
    except (ValueError, TypeError, OSError, ImportError, AttributeError) as error:
        if os.environ.get("MBU_TRACEBACK"):
            raise
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]mbu {options.command}:[/] {error}", highlight=False
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mbu", description="Masked-binary segmentation networks: plan, verify, time, show.",
        epilog="Example: mbu demo --data nuclei/    A model is module:function or smp:Unet/resnet34.",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(
        name: str, run: Callable[[Any, Console], int], text: str, example: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            epilog=f"Example: {example}" if example else None,
        )  # fmt: skip
        added.set_defaults(run=run)
        return added

    demo = command(
        "demo", _demo, "Train, convert, prove, compile and time a real small job; ends with a web page."
    )
    _add_demo_options(demo)

    plan = command(
        "plan", _plan, "Show which layers of a model would become one-bit, and whether it is worth it, here.",
        "mbu plan smp:Unet/resnet34 --size 512",
    )  # fmt: skip
    plan.add_argument("model", help="module:function, or smp:Architecture/encoder")
    plan.add_argument("--size", type=int, default=256, help="height and width of the input, pixels")
    plan.add_argument("--channels", type=int, default=3, help="channels of the input")
    plan.add_argument("--masked", default="0.667", help="share of the blocks to mask, 'all' or 'none'")
    plan.add_argument("--order", default="forward", help="forward, reverse, cost or all")
    plan.add_argument("--threads", type=int, default=1, help="processor threads of the prediction")
    plan.add_argument(
        "--verdict", action=argparse.BooleanOptionalAction, default=True, help="predict size and speed"
    )
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")

    packing.add_convert_options(command("convert", _convert, packing.CONVERT, packing.CONVERT_EXAMPLE))
    packing.add_verify_options(command("verify", _verify, packing.VERIFY, packing.VERIFY_EXAMPLE))
    packing.add_predict_options(command("predict", _predict, packing.PREDICT, packing.PREDICT_EXAMPLE))

    add_bench_options(command("bench", _bench, BENCH_DESCRIPTION))
    explore.add_study_options(command("study", explore.study, explore.STUDY))
    explore.add_sweep_options(command("sweep", explore.sweep, explore.SWEEP))

    add_report_options(
        command("report", _report, "Score, count and time a packed network of a scene data set; one page.")
    )
    add_ablation_options(
        command(
            "ablation", _ablation, "Train the variants of a table of the BiSegUNet paper, and compare them."
        )
    )
    export = command(
        "export", _export, "Compile a packed model into a .pt2 package that runs without Python."
    )
    export.add_argument("model", help="file written by save, or folder written by save_pretrained")
    export.add_argument("output", help="file to write, ending in .pt2")
    export.add_argument("--size", type=int, default=256, help="height and width of the example input, pixels")

    doctor = command("doctor", _doctor, "Show what this machine can run.")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument("--library", action="store_true", help="list the compiled CUDA kernels instead")
    return parser


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    from .demo_settings import DemoSettings, field_help

    for field in fields(DemoSettings):
        kind = {"int": int, "float": float}.get(str(field.type).partition(" ")[0], str)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=field_help(field.name)
        )


def _demo(options: argparse.Namespace, console: Console) -> int:
    from .demo.run import run_demo
    from .demo_settings import DemoSettings

    run_demo(
        DemoSettings(**{field.name: getattr(options, field.name) for field in fields(DemoSettings)}), console
    )
    return 0


def _plan(options: argparse.Namespace, console: Console) -> int:
    from .commands.plan import run

    return run(options, console)


def _convert(options: argparse.Namespace, console: Console) -> int:
    from .commands.packing import run_convert

    return run_convert(options, console)


def _verify(options: argparse.Namespace, console: Console) -> int:
    from .commands.packing import run_verify

    return run_verify(options, console)


def _predict(options: argparse.Namespace, console: Console) -> int:
    from .commands import predict

    return predict.run(options, console)


def _bench(options: argparse.Namespace, console: Console) -> int:
    from .bench import command

    return command.run(options, console)


def _export(options: argparse.Namespace, console: Console) -> int:
    import torch

    from .deploy import PackedModel, export, load

    packed = (
        PackedModel.from_pretrained(options.model) if os.path.isdir(options.model) else load(options.model)
    )
    example = torch.zeros(1, packed.input_spec.channels, options.size, options.size)
    path = export(packed, example, options.output)
    console.print(
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, for this processor; docs/export.md says how to run it."
    )
    return 0


def _report(options: argparse.Namespace, console: Console) -> int:
    from .scenes import report

    return report.run(options, console)


def _ablation(options: argparse.Namespace, console: Console) -> int:
    from .scenes import ablation

    return ablation.run(options, console)


def _doctor(options: argparse.Namespace, console: Console) -> int:
    from .doctor import show_doctor, show_library

    if options.library:
        show_library(console, options.json)
        return 0
    return 0 if show_doctor(console, options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
