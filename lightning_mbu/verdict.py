"""Is one-bit worth it for this model, here? A prediction in seconds, without training and without converting.

    float  = one run of the float network, split by module hooks into convolutions that become one-bit, f_q, those that
             stay float, f_k, and everything between them, f_r
    packed = f_k + sum over one-bit layers of (multiply-adds / rate of this kernel for such a layer) + r

r is 0 where every batch norm and activation folds into thresholds. Where none does, every one-bit layer writes its
output as floats and somebody reads them: 8 bytes per value at the speed of this machine's memory, and never more than
f_r. So the prediction is a range. It knows nothing of accuracy; what was trained and measured stands beside it
(`measured_front`).
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Group
from rich.text import Text
from torch import Tensor, nn

import mbu_ops.functional as F
from mbu_ops.backends import cpu_kernels
from mbu_ops.packing import pack_weight

from .eight_bits import EightBits, eight_bits
from .measured_front import measured_front
from .plan import LayerPlan, Plan
from .tables import as_text
from .timing import conditions, time_interleaved

_SIDE = 32  # pixels; the rate of a layer is measured on images of at most this side
_RUNS, _BUDGET_S = 20, 1.0  # of the float network: one, and more while time is left; the fastest counts
_NEGLIGIBLE = 1.5  # times faster than float; less is lost to what a prediction does not see


@dataclass(frozen=True)
class Verdict:
    """What `predict_gain` found; print it for a paragraph.

    Attributes:
        float_ms: fastest eager run of the float network on one image.
        packed_ms: predicted time of the packed one, from - to.
        kept_ms: of the float time, convolutions that stay float.
        one_bit_ms: predicted time of the one-bit convolutions.
        float_bytes, packed_bytes: parameters and buffers; the second is an upper bound, without the file's header.
        eight_bits: the rival on this processor.
        worth: `"yes"`, `"measure"`, `"size only"` or `"no"`.
        why: a sentence.
        front: where networks that were trained lie between quality and time on such processors.
        conditions: of the measurement.
    """

    float_ms: float
    packed_ms: tuple[float, float]
    kept_ms: float
    one_bit_ms: float
    float_bytes: int
    packed_bytes: int
    eight_bits: EightBits
    worth: str
    why: str
    front: str
    conditions: dict[str, str]

    @property
    def gain(self) -> tuple[float, float]:
        """How many times faster than float, from - to."""
        return self.float_ms / self.packed_ms[1], self.float_ms / self.packed_ms[0]

    @property
    def rivals(self) -> dict[str, float]:
        """Share of the channels with which the same network in float, or in eight bits, takes as long as the slower end.

        Multiply-adds go with the square of the channels; eight bits are taken at the most that they gain here.
        """
        share = self.packed_ms[1] / self.float_ms
        return {
            "float": min(share**0.5, 1.0),
            "eight bits": min((share * self.eight_bits.gain[1]) ** 0.5, 1.0),
        }

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gain": list(self.gain), "rivals": self.rivals}

    def __rich__(self) -> Group:
        (low, high), (fast, slow) = self.gain, self.packed_ms
        heading = {
            "yes": "worth trying",
            "measure": "measure it beside eight bits",
            "size only": "for its size, not for its speed",
            "no": "not worth it",
        }
        size = (
            f"size: {self.float_bytes / 1e6:.2f} MB float -> at most {self.packed_bytes / 1e6:.2f} MB packed "
            f"({self.float_bytes / self.packed_bytes:.1f}x smaller)"
        )
        speed = (
            f"speed: {self.float_ms:.1f} ms float, eager -> {fast:.1f} to {slow:.1f} ms predicted "
            f"({low:.1f}x to {high:.1f}x faster); of it {self.kept_ms:.1f} ms for convolutions that stay float"
        )
        rival = (
            f"rivals: the same network with {self.rivals['float']:.0%} of the channels in float, or with "
            f"{self.rivals['eight bits']:.0%} in eight bits, takes about as long; train those too. Measure instead of "
            "predicting: mbu bench"
        )
        front = f"front of quality and time, at width 16: {self.front}"
        measured = "; ".join(f"{name} {value}" for name, value in self.conditions.items())
        lines = [f"Verdict: {heading[self.worth]}. {self.why}", size, speed, rival, front, measured]
        return Group(*(Text(line) for line in lines))

    def __str__(self) -> str:
        return as_text(self, 130)


@torch.inference_mode()
def predict_gain(model: nn.Module, plan: Plan, threads: int = 1) -> Verdict:
    """Predicts size and speed of `model` after `plan`, on one image of the plan's size, on this processor.

    Args:
        model: the float model that the plan was made for; left as it is.
        plan: result of `make_plan`.
        threads: for both networks.

    Raises:
        ValueError: `threads` is below 1.
        RuntimeError: this install has no kernels.
    """
    if threads < 1:
        raise ValueError(f"threads={threads}: at least one is needed.")
    before, modes = torch.get_num_threads(), {module: module.training for module in model.modules()}
    try:
        torch.set_num_threads(threads)
        model.eval()
        float_ms, layer_ms, values = _float_times(model, plan)
        one_bit_ms = sum(_one_bit_times(model, plan).values())
    finally:
        torch.set_num_threads(before)
        for module, training in modes.items():
            module.training = training
    quantized = {layer.name for layer in plan.quantized}
    kept = sum(ms for name, ms in layer_ms.items() if name not in quantized)
    streams = sum(values[name] for name in quantized) * _ms_per_value()
    rest = min(max(float_ms - sum(layer_ms.values()), 0.0), streams)
    packed = kept + one_bit_ms, kept + one_bit_ms + rest
    float_bytes = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    rival = eight_bits()
    worth, why = judge(float_ms, packed, kept, plan.one_bit_share, rival)
    kernel = next(kernel.name for kernel in cpu_kernels() if kernel.selected)
    return Verdict(
        float_ms, packed, kept, one_bit_ms, float_bytes, packed_bytes(plan, float_bytes), rival, worth, why,
        measured_front(), {**conditions(torch.device("cpu"), threads), "kernel": kernel},
    )  # fmt: skip


def packed_bytes(plan: Plan, float_bytes: int) -> int:
    """Bytes of the packed weights at most: two bits for a masked weight, one for a binary one, the rest as it is."""
    bits = sum(layer.weights * (2 if layer.kind == "masked" else 1) for layer in plan.quantized)
    return float_bytes - 4 * sum(layer.weights for layer in plan.quantized) + -(-bits // 8)


def judge(
    float_ms: float, packed_ms: tuple[float, float], kept_ms: float, one_bit_share: float, rival: EightBits
) -> tuple[str, str]:
    """`"yes"`, `"measure"`, `"size only"` or `"no"`, and why; arguments as in `Verdict`, the slower end of the range
    counts."""
    gain = float_ms / packed_ms[1]
    if gain >= rival.gain[1]:
        return "yes", (
            f"At least {gain:.1f}x faster than float is predicted; eight bits gain {rival}. "
            "Accuracy must be trained to be known."
        )
    words = (
        f"Between {gain:.1f}x and {float_ms / packed_ms[0]:.1f}x faster than float is predicted, and eight bits "
        f"gain {rival} at less loss of accuracy"
    )
    if gain >= max(rival.gain[0], _NEGLIGIBLE):
        return "measure", f"{words}."
    if kept_ms > packed_ms[1] / 2:
        reason = f"convolutions that stay float take {kept_ms / packed_ms[1]:.0%} of the packed time"
    elif one_bit_share < 0.6:
        reason = f"only {one_bit_share:.0%} of the multiply-adds become one-bit"
    else:
        reason = "the operations between the convolutions may stay float and then take the time"
    if gain > _NEGLIGIBLE:
        return "size only", f"{words}: {reason}."
    return "no", f"No more than {gain:.1f}x faster than float is certain: {reason}."


def _float_times(model: nn.Module, plan: Plan) -> tuple[float, dict[str, float], dict[str, int]]:
    """Milliseconds of the fastest of a few runs of the float network and of its convolutions in that run, and how many
    values each of them returns."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = torch.randn(1, *plan.input_shape[1:], generator=torch.Generator().manual_seed(0))
    example = example.to(next(model.parameters())).contiguous(memory_format=torch.channels_last)
    layer_ms: dict[str, float] = {}
    values: dict[str, int] = {}
    starts: dict[str, float] = {}

    def begin(name: str) -> Any:
        return lambda *_: starts.__setitem__(name, time.perf_counter())

    def end(name: str) -> Any:
        def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
            layer_ms[name] = layer_ms.get(name, 0.0) + 1e3 * (time.perf_counter() - starts[name])
            values[name] = values.get(name, 0) + output.numel()

        return stop

    for layer in plan.layers:
        module = model.get_submodule(layer.name)
        module.register_forward_pre_hook(begin(layer.name))
        module.register_forward_hook(end(layer.name))
    runs = []  # the first prepares oneDNN's kernels
    end_s = time.perf_counter() + _BUDGET_S
    while not runs or (len(runs) < _RUNS and time.perf_counter() < end_s):
        layer_ms.clear()
        values.clear()
        start = time.perf_counter()
        model(example)
        runs.append((1e3 * (time.perf_counter() - start), dict(layer_ms)))
    return *min(runs, key=lambda run: run[0]), values


def _ms_per_value() -> float:
    """Milliseconds to write one float and read it again, from copying an array larger than the caches."""
    source = torch.zeros(2**24)
    target = torch.empty_like(source)
    return time_interleaved({"copy": lambda: target.copy_(source)}, 5, 1)["copy"].min / source.numel()


def _one_bit_times(model: nn.Module, plan: Plan) -> dict[str, float]:
    """Predicted milliseconds of every layer that becomes one-bit: its multiply-adds times the kernel's rate."""
    shapes = {layer.name: _shape(model, layer) for layer in plan.quantized}
    calls = {shape: _call(*shape) for shape in set(shapes.values())}
    times = time_interleaved({str(s): call for s, (call, _) in calls.items()}, 3, 1, min_time_s=0.002)
    per_mac = {shape: times[str(shape)].min / macs for shape, (_, macs) in calls.items()}
    # Groups are computed as words of zeros: a grouped layer costs what the dense one would.
    return {
        layer.name: layer.macs * layer.planes * shapes[layer.name][4] * per_mac[shapes[layer.name]]
        for layer in plan.quantized
    }


def _shape(model: nn.Module, layer: LayerPlan) -> tuple[int, int, int, int, int]:
    """Input channels, output channels, kernel, side of the image to measure on, groups."""
    module = model.get_submodule(layer.name)
    pixels = layer.macs / max(layer.weights, 1)
    side = max(1, min(_SIDE, round(pixels**0.5)))
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, 1, side, 1
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    kernel = max(module.kernel_size)
    return module.in_channels, module.out_channels, kernel, side, module.groups


def _call(channels: int, out_channels: int, kernel: int, side: int, groups: int) -> tuple[Any, int]:
    """A one-bit convolution to time, unpadded so that no border is computed, and its multiply-adds."""
    generator = torch.Generator().manual_seed(0)
    extent, words = side + kernel - 1, -(-channels // 32)
    bits = torch.randint(
        -(2**31), 2**31 - 1, (1, extent, extent, words), dtype=torch.int32, generator=generator
    )
    values: Tensor = torch.randint(-1, 2, (out_channels, channels, kernel, kernel), generator=generator)
    weight = F.tile_weight(pack_weight(values))
    threshold = torch.zeros(1, out_channels, dtype=torch.int32)
    flip = torch.zeros(1, -(-out_channels // 32), dtype=torch.int32)
    macs = side * side * channels * out_channels * kernel**2
    return lambda: F.conv2d_threshold(bits, weight, threshold, flip, out_channels, kernel), macs
