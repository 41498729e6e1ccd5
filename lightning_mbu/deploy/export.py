"""export: a network as one file for a program without Python (`.pt2`), or without torch (`.onnx`)."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..prepare import quantized_layers
from .convert import convert
from .packed import PackedModel
from .portable import portable

_SMALLEST = 64  # pixels; below, a coarse map has one pixel, for which export would write another program
_MULTIPLES = (1, 8, 16, 32, 64)  # of height and width, tried from that of the network on
_LARGEST = 2**14  # pixels


def export(model: nn.Module, example_input: Tensor, path: str | Path) -> Path:
    """Writes a network to `path`; its ending decides how.

    `.pt2`: compiled by AOTInductor for this processor, calling `torch.ops.mbu`; batch, height and width free.
    Load it with `mbu_ops.load_package`, or from C++ (docs/export.md).
    `.onnx`: the portable fallback, one-bit layers as float convolutions of ones: same result, float speed.

    Args:
        model: result of `convert` or `load`; or the trained model, which ONNX needs.
        example_input: float32 `[N, C, H, W]`, height and width at least 64 pixels.
        path: file name; an existing file is replaced.

    Returns:
        The path.

    Raises:
        ValueError: another ending, a packed model for ONNX or on a GPU, or a model that cannot be exported.
        TypeError: `model` is neither packed nor trained with masked-binary layers.
        ImportError: ONNX export without the packages `onnx` and `onnxscript`.
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{path.name!r} must end in .pt2 (AOTInductor) or .onnx.")
    if not isinstance(model, PackedModel) and not any(quantized_layers(model)):
        raise TypeError(
            f"export takes a packed model, or a trained one with masked-binary layers; this "
            f"{type(model).__name__} has none. Call convert(model, x) first."
        )
    if path.suffix == ".onnx":
        _export_onnx(model, example_input, path)
    else:
        packed = model if isinstance(model, PackedModel) else convert(model, example_input)
        _export_package(packed, example_input, path)
    return path


def _export_package(packed: PackedModel, example_input: Tensor, path: Path) -> None:
    if packed.device.type != "cpu":
        raise ValueError(
            f"a .pt2 package runs on the CPU and the model is on {packed.device}. Use model.cpu()."
        )
    program = exported_program(packed, example_input)
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": _accepted(program, example_input)},
    )


def _accepted(program: ExportedProgram, example_input: Tensor) -> dict[str, str]:
    """The sizes that `program` takes, for the package to carry, since compiled code does not check them.

    Returns:
        `mbu_channels`; `mbu_height` and `mbu_width` as "smallest largest multiple", pixels.
    """
    (name,) = program.graph_signature.user_inputs
    images: Tensor = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    facts = {"mbu_channels": str(example_input.shape[1])}
    for axis, size in zip(("height", "width"), images.shape[2:], strict=True):
        smallest = largest = size
        multiple = 1
        if isinstance(size, torch.SymInt):
            pixels: Any = size.node.expr
            (symbol,) = pixels.free_symbols
            limits = program.range_constraints[symbol]
            multiple = int(pixels.coeff(symbol))
            smallest, largest = multiple * int(limits.lower), multiple * int(limits.upper)
        facts[f"mbu_{axis}"] = f"{smallest} {largest} {multiple}"
    return facts


def _sizes(multiple: int) -> Iterator[dict[int, Any]]:
    """Which dimensions are free, the most first."""
    batch = Dim("batch", min=1, max=2**16)
    for factor in sorted({multiple, *(m for m in _MULTIPLES if m % multiple == 0)}):
        limits = {"min": -(-_SMALLEST // factor), "max": _LARGEST // factor}
        height, width = Dim("height", **limits), Dim("width", **limits)
        yield {
            0: batch,
            2: factor * height if factor > 1 else height,
            3: factor * width if factor > 1 else width,
        }
    yield {0: batch}


def exported_program(packed: PackedModel, example_input: Tensor) -> ExportedProgram:
    """What a `.pt2` package is compiled from: batch, height and width free where the network allows it.

    Raises:
        ValueError: the model cannot be exported with such an input.
    """
    return _program(packed.graph_module, example_input, packed.input_spec.multiple)


def _program(module: nn.Module, example_input: Tensor, multiple: int) -> ExportedProgram:
    # Batch 2: export would otherwise take a batch of 1 for a constant.
    example = example_input.detach().cpu()[:1].repeat(2, 1, 1, 1).contiguous()
    problem: Exception | None = None
    for free in _sizes(multiple):
        if any(
            n % multiple or (axis in free and n < _SMALLEST)
            for axis, n in enumerate(example.shape)
            if axis > 1
        ):
            continue
        try:
            with torch.no_grad():
                program = torch.export.export(module, (example,), dynamic_shapes=(free,))
        except Exception as error:  # noqa: BLE001 (torch.export raises many kinds; the next size may do)
            problem = error
            continue
        if len(free) == 1:
            size = "x".join(str(n) for n in example.shape[2:])
            warnings.warn(
                f"this network is exported for images of {size} alone: its height and width cannot be left free.",
                UserWarning, stacklevel=3,
            )  # fmt: skip
        return program
    first_line = str(problem).strip().splitlines()[0] if problem else "it is too small."
    raise ValueError(
        f"the model cannot be exported with an input of shape {tuple(example_input.shape)}: {first_line} "
        f"Give an input of at least {_SMALLEST}x{_SMALLEST} whose size is a multiple of {multiple}."
    ) from problem


def _export_onnx(model: nn.Module, example_input: Tensor, path: Path) -> None:
    if isinstance(model, PackedModel):
        raise ValueError(  # noqa: TRY004 (right type, wrong moment)
            "ONNX has no one-bit convolutions, and a packed model no longer holds the float operations between them. "
            "Export the trained model: export(model, x, 'net.onnx')."
        )
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX export needs {' and '.join(missing)}. Install with: pip install 'lightning-mbu[onnx]'."
        )
    program = _program(portable(model), example_input, 1)
    torch.onnx.export(program, (), str(path), dynamo=True, external_data=False, verbose=False)
