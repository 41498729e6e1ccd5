"""Options of `mbu convert`, `verify`, `predict`, `summary` and `train`, without anything that takes long to import."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..config import PRESETS

CONVERT = "Pack a trained network into one file, after proving that it computes the same bits."
CONVERT_EXAMPLE = "mbu convert last.ckpt --model Unet/resnet34 --images val/ --normalise imagenet -o net.mbu"
VERIFY = "Compare a packed network with the trained one, bit by bit, on images; exit status 1 if they differ."
VERIFY_EXAMPLE = "mbu verify last.ckpt net.mbu val/ --model Unet/resnet34"
PREDICT = "Segment images and videos with a packed network: a mask and an overlay for each, one image in memory at a time."
PREDICT_EXAMPLE = "mbu predict net.mbu photos/ more.jpg film.mp4 -o masks"
SUMMARY = "List the layers of a network: multiply-adds, weights, bits and zeros."
SUMMARY_EXAMPLE = "mbu summary Unet/resnet34 --size 512 --one-bit"
TRAIN = "Run a recipe, with its own options; without a name, list the recipes."
TRAIN_EXAMPLE = "mbu train nuclei --data.root nuclei --output nuclei.mbu"

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
    parser.add_argument("images", nargs="+", metavar="image", help="images, folders of images, videos")
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


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu plan`."""
    parser.add_argument("model", help="module:function, file.py:function, or Architecture/encoder")
    add_arguments(parser)
    add_size(parser, "of the input", (256, 256))
    parser.add_argument("--channels", type=int, default=3, help="channels of the input")
    parser.add_argument(
        "--masked", type=share, default=0.667,
        help="share of the blocks whose weights may be 0, the cheapest ones; 'all' or 'none'",
    )  # fmt: skip
    parser.add_argument(
        "--order", default=PRESETS["default"].order,
        help="in which layers become one-bit while training: forward, reverse, cost (cheapest first) or all (at once)",
    )  # fmt: skip
    _add_planes(parser)
    _add_linear(parser)
    parser.add_argument("--threads", type=int, default=1, help="processor threads that the prediction is for")
    parser.add_argument(
        "--verdict",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also predict size and speed here, and judge them",
    )
    parser.add_argument(
        "--json", action="store_true", help="print plan and verdict as JSON; MBUQuantize(plan=FILE) reads it"
    )


def add_size(parser: argparse.ArgumentParser, what: str, default: Any = None, **more: Any) -> None:
    """`--size`, one word that means the same for every command."""
    parser.add_argument(
        "--size", type=image_size, default=default, help=f"{what}, pixels: 256, or height x width as 288x384", **more
    )  # fmt: skip


def image_size(text: str) -> tuple[int, int]:
    """`512` or `512x1024` (height x width) -> `(512, 512)`, `(512, 1024)`.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    sides = text.lower().split("x")
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no image size; give pixels above 0, as 256 or 512x1024 (height x width)"
        )
    return int(sides[0]), int(sides[1])


def share(text: str) -> float | str:
    """A number, `all` or `none`."""
    try:
        return text if text in ("all", "none") else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1, 'all' or 'none'") from None


def json_object(text: str) -> dict[str, Any]:
    """Keyword arguments as JSON."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object such as '{{\"classes\": 3}}'")
    return found


def add_summary_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu summary`."""
    parser.add_argument(
        "model",
        help="module:function, file.py:function, Architecture/encoder, folder of save_trained, or packed file",
    )
    add_arguments(parser)
    add_size(parser, "of the input", (256, 256))
    parser.add_argument("--channels", type=int, default=3, help="channels of the input")
    parser.add_argument("--one-bit", action="store_true", help="of a float model: what the plan makes of it")
    _add_planes(parser)
    _add_linear(parser)
    parser.add_argument("--json", action="store_true", help="print the layers as JSON")


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mbu train`; everything behind the recipe's name is the recipe's."""
    parser.add_argument("--json", action="store_true", help="print the list of recipes as JSON")
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or path of a Python file")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="options of the recipe; --help there shows them"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--arguments` of a model that is named by a function."""
    parser.add_argument(
        "--arguments", type=json_object, default={}, help="of that function, as JSON: '{\"classes\": 3}'"
    )


def _add_planes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--planes", type=int, default=PRESETS["default"].planes, metavar="N",
        help="thresholds per channel, at N times the one-bit operations",
    )  # fmt: skip


def _add_linear(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--linear", action="store_true", help="plan linear layers as one-bit too")


def _add_trained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trained", help="folder of save_trained, or a Lightning checkpoint (.ckpt)")
    parser.add_argument(
        "--model", help="for a checkpoint: its float network, module:function or Architecture/encoder"
    )
    add_arguments(parser)


def _add_reading(parser: argparse.ArgumentParser, limit: int | None) -> None:
    add_size(parser, "resize images to this; their own size without")
    parser.add_argument(
        "--normalise", default="image", choices=NORMALISATIONS,
        help="as in training: each image to mean 0 and deviation 1, ImageNet's statistics, 0..1, or 0..255",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=limit, help="take the first so many images only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
