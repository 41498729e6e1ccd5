"""Options of `mbu convert`, `mbu verify` and `mbu predict`, without anything that takes long to import."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

CONVERT = "Pack a trained network into one file, after proving that it computes the same bits."
CONVERT_EXAMPLE = (
    "mbu convert last.ckpt --model smp:Unet/resnet34 --images val/ --normalise imagenet -o net.mbu"
)
VERIFY = "Compare a packed network with the trained one, bit by bit, on images; exit status 1 if they differ."
VERIFY_EXAMPLE = "mbu verify last.ckpt net.mbu val/ --model smp:Unet/resnet34"
PREDICT = (
    "Segment images with a packed network: a mask and an overlay for each, one image in memory at a time."
)
PREDICT_EXAMPLE = "mbu predict net.mbu photos/ more.jpg -o masks"

NORMALISATIONS = ("image", "imagenet", "unit", "none")


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu convert`."""
    _add_trained(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("net.mbu"), help="file to write")
    parser.add_argument(
        "--stream-dtype", default="float32", choices=("float32", "bfloat16"),
        help="of the float streams in a residual network; bfloat16 halves their memory and is not exact",
    )  # fmt: skip
    parser.add_argument(
        "--images", nargs="+", metavar="image", help="images or folders to prove it on; noise without"
    )
    _add_reading(parser, limit=8)


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu verify`."""
    _add_trained(parser)
    parser.add_argument("packed", help="file or folder of the packed network")
    parser.add_argument("images", nargs="+", metavar="image", help="images, or folders of images")
    _add_reading(parser, limit=8)


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu predict`."""
    parser.add_argument("packed", help="file or folder of the packed network")
    parser.add_argument("images", nargs="+", metavar="image", help="images, or folders of images")
    parser.add_argument("-o", "--output", type=Path, default=Path("masks"), help="folder to write into")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability from which a pixel counts, one class"
    )
    parser.add_argument(
        "--overlays", action=argparse.BooleanOptionalAction, default=True,
        help="also write each image with its mask in colour",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="processor threads; torch's own choice without")
    _add_reading(parser, limit=None)


def _add_trained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trained", help="folder of save_trained, or a Lightning checkpoint (.ckpt)")
    parser.add_argument(
        "--model", help="for a checkpoint: its float network, module:function or smp:Architecture/encoder"
    )
    parser.add_argument(
        "--arguments", type=json.loads, default={}, help="of that function, as JSON: '{\"classes\": 3}'"
    )


def _add_reading(parser: argparse.ArgumentParser, limit: int | None) -> None:
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="resize to this; the images' own without",
    )
    parser.add_argument(
        "--normalise", default="image", choices=NORMALISATIONS,
        help="as in training: each image to mean 0 and deviation 1, ImageNet's statistics, 0..1, or 0..255",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=limit, help="take the first so many images only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
