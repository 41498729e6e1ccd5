"""Options of `mbu report` and `mbu ablation`, without anything that takes long to import."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from .commands.options import add_arguments, add_size

_NUMBERS = {
    "width": "of the network", "epochs": "of each run", "batch_size": "images per step",
    "seeds": "runs of each variant", "workers": "processes that read images",
}  # fmt: skip
STUDIES = ("figure8", "table7", "table8", "table9", "shortcuts")


@dataclass(frozen=True)
class AblationSettings:
    """How `mbu ablation` trains every variant.

    Attributes:
        dataset, root: see `SceneData`.
        size: height and width in pixels.
        width: of `BiSegUNet`.
        epochs, batch_size, lr: of the run.
        seeds: how many runs of each variant.
        quantize: one-bit; False trains in float.
        preset: of `MBUQuantize`, the paper's unless another is asked for.
        from_float: one-bit training starts from the float network after as many epochs, not from its first weights.
        workers: processes that read images.
        only: variants to run, all if empty.
    """

    dataset: str = "camvid"
    root: str = "CamVid"
    size: tuple[int, int] = (96, 128)
    width: int = 16
    epochs: int = 60
    batch_size: int = 8
    lr: float = 1e-3
    seeds: int = 3
    quantize: bool = True
    preset: str = "bisegunet"
    from_float: bool = False
    workers: int = 2
    only: tuple[str, ...] = ()


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu report`."""
    parser.add_argument("packed", type=Path, help="file written by a recipe or by save")
    parser.add_argument(
        "--model", required=True, help="its float twin: module:function, or Architecture/encoder"
    )
    add_arguments(parser)
    parser.add_argument(
        "--dataset", required=True, help="cityscapes, voc, ade20k, camvid, carvana, isic, nuclei, folder"
    )
    parser.add_argument("--root", required=True, help="folder of the data set as published")
    add_size(parser, "of the images", required=True)
    parser.add_argument("--threads", type=int, default=1, help="threads for the timing")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of the timing")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="page to write; JSON goes beside it"
    )
    parser.add_argument("--log", type=Path, help="metrics.csv of its training, for the curves")
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="JSON",
        help="results of mbu report or mbu study pareto on the same data, for the plot of accuracy against speed",
    )  # fmt: skip
    parser.add_argument(
        "--float", type=Path, nargs="+", default=[], metavar="FILE",
        help="float networks that a recipe has trained with its --float, scored and timed as rivals",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def add_ablation_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu ablation`."""
    base = AblationSettings()
    parser.add_argument(
        "study", choices=STUDIES, help="figure or table of the paper, or shortcuts, which it has not"
    )
    parser.add_argument("--root", required=True, help="folder of the data set as published")
    parser.add_argument("--dataset", default=base.dataset, help="cityscapes, voc, ade20k or camvid")
    add_size(parser, "of the images", base.size)
    for name, text in _NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(base, name), help=text)
    parser.add_argument("--lr", type=float, default=base.lr, help="peak learning rate")
    parser.add_argument(
        "--float", dest="quantize", action="store_false", help="train in float instead of one bit"
    )
    parser.add_argument(
        "--preset",
        default=base.preset,
        help="of MBUQuantize: the paper's own, or default, two thresholds per channel",
    )
    parser.add_argument(
        "--from-float",
        action="store_true",
        help="start from the float network, trained as long: twice the epochs",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("ablation.json"), help="file to write, JSON"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="VARIANT", help="as 'capacity blocks'; all without"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
