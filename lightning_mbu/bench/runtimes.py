"""The float network in other runtimes: ONNX Runtime and OpenVINO, in float and in eight bits.

Each public method has the shape of `Rival.build`. Packages are imported inside, because each is optional.
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
from typing import Any

import torch
from torch import Tensor, nn

from .rivals import calibration_images, require


class Runtimes:
    """Exports a network once for each runtime, whatever the precision: the first network given is the one meant."""

    def __init__(self) -> None:
        self._onnx = b""
        self._openvino: Any = None

    def onnxruntime_float(self, model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
        """ONNX Runtime in float32."""
        return _onnxruntime_session(self._onnx_model(model, example), example, threads)

    def onnxruntime_int8(self, model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
        """ONNX Runtime with static QDQ quantization, weights per channel."""
        exported = self._onnx_model(model, example)
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        images = iter(calibration_images(example))

        class Reader(CalibrationDataReader):
            def get_next(self):
                image = next(images, None)
                return None if image is None else {"x": image.numpy()}

        with tempfile.TemporaryDirectory() as folder:
            path, prepared, quantized = (
                Path(folder, f"{name}.onnx") for name in ("float", "prepared", "int8")
            )
            path.write_bytes(exported)
            logging.getLogger().setLevel(logging.ERROR)
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(quantized), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return _onnxruntime_session(quantized.read_bytes(), example, threads)

    def openvino_float(self, model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
        """OpenVINO in float32; on its own it would choose bfloat16 where the processor has it."""
        return _openvino_request(self._openvino_model(model, example), example, threads, "f32")

    def openvino_bfloat16(self, model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
        """OpenVINO in bfloat16."""
        return _openvino_request(self._openvino_model(model, example), example, threads, "bf16")

    def openvino_int8(self, model: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
        """OpenVINO with post-training quantization by NNCF."""
        require("openvino", "nncf")
        _no_telemetry()
        import nncf

        nncf.set_log_level(logging.ERROR)
        images = [image.numpy() for image in calibration_images(example)]
        converted = self._openvino_model(model, example).clone()
        quantized = nncf.quantize(converted, nncf.Dataset(images), subset_size=len(images))
        return _openvino_request(quantized, example, threads, "f32")

    def _onnx_model(self, model: nn.Module, example: Tensor) -> bytes:
        require("onnx", "onnxscript", "onnxruntime")
        if not self._onnx:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path = Path(folder, "float.onnx")
                torch.onnx.export(
                    model.eval(), (example,), str(path), input_names=["x"], dynamo=True, verbose=False,
                    external_data=False,
                )  # fmt: skip
                self._onnx = path.read_bytes()
        return self._onnx

    def _openvino_model(self, model: nn.Module, example: Tensor) -> Any:
        require("openvino")
        _no_telemetry()
        import openvino

        if self._openvino is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._openvino = openvino.convert_model(torch.export.export(model.eval(), (example,)))
        return self._openvino


def _onnxruntime_session(model: bytes, example: Tensor, threads: int) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"x": example.contiguous().numpy()}
    return lambda: torch.from_numpy(session.run(None, inputs)[0])


def _no_telemetry() -> None:
    # OpenVINO and NNCF report their use over the network where this package is present, and work without it.
    os.environ["NNCF_CI"] = "1"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


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
