"""mbu convert and mbu verify."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from ..deploy import PackedModel, Verification, convert, save, verify
from ..prepare import plan_of
from .images import find_images, fit, normalise, read_image
from .trained import read_packed, read_trained


def merged(parts: Iterable[Verification]) -> Verification:
    """One verification over all batches: counts added up, the largest difference of the output.

    Raises:
        ValueError: nothing to merge.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("there is nothing to verify on; give at least one image.")
    layers = tuple(
        replace(
            same[0], bits=sum(x.bits for x in same), mismatches=sum(x.mismatches for x in same),
            at_rounding=sum(x.at_rounding for x in same),
        )
        for same in zip(*(part.layers for part in parts), strict=True)
    )  # fmt: skip
    return replace(
        parts[0], layers=layers, output_difference=max(x.output_difference for x in parts),
        stem_errors=sum(x.stem_errors for x in parts),
    )  # fmt: skip


def run_convert(options: Any, console: Console) -> int:
    """`mbu convert`: packs, proves, and writes the file only if the proof holds."""
    if not options.output.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {options.output.parent} does not exist; create it, or choose another."
        )
    files = find_images(options.images, options.limit) if options.images else []
    model = read_trained(options.trained, options.model, options.arguments)
    shape = _shape(model)
    packed = convert(model, torch.zeros(shape), stream_dtype=options.stream_dtype)
    if files:
        batches = _batches(files, packed, options)
    else:
        size = options.size or shape[2:]
        noise = torch.randn(1, shape[1], *size, generator=torch.Generator().manual_seed(0))
        batches = [fit(noise, options.size, packed.input_spec.multiple)]
    check = merged(verify(model, packed, batch) for batch in batches)
    # bfloat16 streams are asked for in the knowledge that bits differ; the table says how many.
    good = check.ok or packed.rounds_streams
    if good:
        save(packed, options.output)
    _show(check, options, console, {"output": str(options.output) if good else None})
    if not options.json:
        what = f"on {len(files)} images" if files else "on noise; --images proves it on yours"
        console.print(
            f"saved {options.output}, proved {what}"
            if good
            else f"the packed network differs from the trained one {what}; it was not saved"
        )
    return 0 if good else 1


def run_verify(options: Any, console: Console) -> int:
    """`mbu verify`: status 1 if a bit is wrong."""
    files = find_images(options.images, options.limit)
    packed = read_packed(options.packed)
    model = read_trained(options.trained, options.model, options.arguments)
    check = merged(verify(model, packed, batch) for batch in _batches(files, packed, options))
    _show(check, options, console, {"images": len(files)})
    return 0 if check.ok else 1


def _batches(files: Iterable[Any], packed: PackedModel, options: Any) -> Iterable[Tensor]:
    channels, multiple = packed.input_spec.channels, packed.input_spec.multiple
    for file in files:
        yield fit(normalise(read_image(file.path, channels), options.normalise), options.size, multiple)


def _shape(model: nn.Module) -> tuple[int, ...]:
    """Of an input that the model takes: the one that its plan was made with."""
    plan = plan_of(model)
    assert plan is not None, "read_trained returns prepared models only"
    return (1, *plan.input_shape[1:])


def _show(check: Verification, options: Any, console: Console, more: dict[str, Any]) -> None:
    if options.json:
        print(json.dumps({**check.to_dict(), **more}))
    else:
        console.print(check)
