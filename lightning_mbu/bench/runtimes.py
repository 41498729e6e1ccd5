"""The float network in other runtimes: ONNX Runtime and OpenVINO, in float and in eight bits.

Each function has the shape of `Rival.build`. Packages are imported inside, because each is optional.
"""

# The extra `bench` installs what is imported inside functions here.
# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .rivals import calibration_images, require


def onnxruntime_float(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """ONNX Runtime in float32."""
    with tempfile.TemporaryDirectory() as folder:
        return _onnxruntime_session(_export_onnx(model, example, Path(folder)), example, threads)


def onnxruntime_int8(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """ONNX Runtime with static QDQ quantization, weights per channel."""
    require("onnx", "onnxscript", "onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = iter(calibration_images(example))

    class Reader(CalibrationDataReader):
        def get_next(self):
            image = next(images, None)
            return None if image is None else {"x": image.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        path = _export_onnx(model, example, Path(folder))
        prepared, quantized = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
        logging.getLogger().setLevel(logging.ERROR)
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(quantized), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return _onnxruntime_session(quantized, example, threads)


def _export_onnx(model: nn.Module, example: Tensor, folder: Path) -> Path:
    require("onnx", "onnxscript", "onnxruntime")
    path = folder / "float.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (example,), str(path), input_names=["x"], dynamo=True, verbose=False,
            external_data=False,
        )  # fmt: skip
    return path


def _onnxruntime_session(path: Path, example: Tensor, threads: int) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {"x": example.contiguous().numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def openvino_float(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """OpenVINO in float32; on its own it would choose bfloat16 where the processor has it."""
    return _openvino_request(_openvino_model(model, example), example, threads, "f32")


def openvino_bfloat16(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """OpenVINO in bfloat16."""
    return _openvino_request(_openvino_model(model, example), example, threads, "bf16")


def openvino_int8(model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
    """OpenVINO with post-training quantization by NNCF."""
    require("openvino", "nncf")
    _no_telemetry()
    import nncf

    nncf.set_log_level(logging.ERROR)
    images = [image.numpy() for image in calibration_images(example)]
    quantized = nncf.quantize(_openvino_model(model, example), nncf.Dataset(images), subset_size=len(images))
    return _openvino_request(quantized, example, threads, "f32")


def _no_telemetry() -> None:
    # OpenVINO and NNCF report their use over the network where this package is present, and work without it.
    os.environ["NNCF_CI"] = "1"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _openvino_model(model: nn.Module, example: Tensor):
    require("openvino")
    _no_telemetry()
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return openvino.convert_model(torch.export.export(model.eval(), (example,)))


def _openvino_request(converted, example: Tensor, threads: int, precision: str) -> Callable[[], Tensor]:
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("this processor has no bfloat16 instructions")
    settings = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision
    }  # fmt: skip
    request = core.compile_model(converted, "CPU", settings).create_infer_request()
    value = example.contiguous().numpy()
    return lambda: torch.from_numpy(request.infer([value], share_inputs=True, share_outputs=True)[0])
