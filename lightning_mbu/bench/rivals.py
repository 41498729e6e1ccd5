"""The float network in eight bits by PyTorch's own means, and the list of all rivals."""

# The extra `bench` installs what is imported inside functions here.
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from ..benchmark import Rival
from ..folding import fold_transposed
from .isa import has_vnni

# Largest difference from float32, as a share of the largest output. Eight bits in every layer of a network
# without training add up, to half of it in a resnet; the limit catches another function, not rounding.
INT8_TOLERANCE = 1.0
FLOAT_TOLERANCE = 1e-3
CALIBRATION_PIXELS = 2 * 256 * 256  # a range is the extreme of all pixels, in however many images


def calibration_images(example: Tensor) -> list[Tensor]:
    """The example and more random images like it, for the ranges of activations."""
    generator = torch.Generator().manual_seed(1)
    count = max(1, CALIBRATION_PIXELS // example.shape[2:].numel())
    more = [torch.randn(example.shape, generator=generator) for _ in range(count - 1)]
    return [example.contiguous(), *more]


def require(*packages: str) -> None:
    """Raises ImportError where one of `packages` is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} not installed; pip install 'lightning-mbu[bench]' brings it")


def int8_fx(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """FX graph mode post-training static quantization, run eagerly in channels_last.

    Without VNNI, sums of two products saturate at 16 bits: activations then keep to 7 bits (`reduce_range`), as the
    x86 engine does by default. A concat takes the range of its first input, which costs accuracy where the others'
    differ: a network that suffers too much is listed as differing.
    """
    from torch.ao.quantization import (
        MinMaxObserver,
        QConfig,
        default_weight_observer,
        get_default_qconfig_mapping,
    )
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    engine = "onednn" if has_vnni() else "x86"
    torch.backends.quantized.engine = engine
    # Weights of transposed convolutions can only be quantized as a whole, not per channel.
    ranges = MinMaxObserver.with_args(reduce_range=not has_vnni())
    whole = QConfig(activation=ranges, weight=default_weight_observer)
    mapping = get_default_qconfig_mapping(engine).set_object_type(nn.ConvTranspose2d, whole)
    # Checks of the input's size, which this tracer cannot follow, are skipped by compilers.
    with warnings.catch_warnings(), mock.patch("torch.compiler.is_compiling", return_value=True):
        warnings.simplefilter("ignore")
        prepared = prepare_fx(fold_transposed(model, example), mapping, (example,))
        for image in calibration_images(example):
            prepared(image)
        quantized = convert_fx(prepared)
    value = example.contiguous(memory_format=torch.channels_last)
    return lambda: quantized(value)


def int8_compiled(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """Quantization of the exported graph (torchao, x86), run by torch.compile with freezing."""
    require("torchao")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        exported = torch.export.export(fold_transposed(model, example), (example,)).module()
        settings = x86.get_default_x86_inductor_quantization_config(reduce_range=not has_vnni())
        quantizer = x86.X86InductorQuantizer().set_global(settings)
        prepared = prepare_pt2e(exported, quantizer)
        for image in calibration_images(example):
            prepared(image)
        quantized = torch.compile(convert_pt2e(prepared))
        with inductor.patch(freezing=True):
            quantized(example)
    return lambda: quantized(example)


def rivals() -> list[Rival]:
    """Everything that may be able to run the float network here besides PyTorch in float."""
    from .runtimes import Runtimes

    runtimes = Runtimes()
    return [
        Rival("int8 PyTorch FX", int8_fx, INT8_TOLERANCE),
        Rival("int8 PyTorch compiled", int8_compiled, INT8_TOLERANCE),
        Rival("float ONNX Runtime", runtimes.onnxruntime_float, FLOAT_TOLERANCE),
        Rival("int8 ONNX Runtime", runtimes.onnxruntime_int8, INT8_TOLERANCE),
        Rival("float OpenVINO", runtimes.openvino_float, FLOAT_TOLERANCE),
        Rival("bfloat16 OpenVINO", runtimes.openvino_bfloat16, INT8_TOLERANCE),
        Rival("int8 OpenVINO", runtimes.openvino_int8, INT8_TOLERANCE),
    ]
