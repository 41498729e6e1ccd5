"""verify: proves, on real images, that the packed network computes the trained one's bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

from mbu_ops.backends import cpu_kernels
from mbu_ops.packing import unpack_bits
from mbu_ops.reference import join

from ..compiled import inside_compiled
from ..layers import QuantizedConvolution
from ..prepare import quantized_layers
from ..residual import BridgedBatchNorm2d
from ..tables import as_text
from .files import packed_size
from .own_stem import OwnStem, stems_of
from .packed import PackedLayer, PackedModel
from .replay import is_close, recorded_inputs


@dataclass(frozen=True)
class LayerCheck:
    """Comparison of the bits that one layer reads.

    Attributes:
        name, kind: the layer.
        bits: activation bits compared.
        mismatches: bits that differ although the trained network's value is clear of the threshold.
        at_rounding: bits that differ by rounding alone: the trained network's value lies within one rounding of the
            threshold, or the bit follows from such a one, or from a stem whose float sums were added in another order.
        zeros: share of masked weights.
        bytes: size of its packed weight.
        output: what leaves the layer: `"bits"`, or `"float"` where something else needs its values.
    """

    name: str
    kind: str
    bits: int
    mismatches: int
    at_rounding: int
    zeros: float
    bytes: int
    output: str


@dataclass(frozen=True)
class Verification:
    """Result of `verify`; print it for a table.

    Attributes:
        layers: one entry per packed convolution.
        output_difference: largest |packed - trained| over the model's output.
        float_bytes: size of the trained model's parameters and buffers.
        packed_bytes: size of the packed file.
        kernel: CPU kernel in use.
        rounds_streams: the packed model stores float streams as bfloat16, which the trained one does not: bits differ.
        stem_errors: sums of a fused float stem further from the trained network's than rounding explains.
    """

    layers: tuple[LayerCheck, ...]
    output_difference: float
    float_bytes: int
    packed_bytes: int
    kernel: str
    stem_errors: int = 0
    rounds_streams: bool = False

    @property
    def mismatches(self) -> int:
        """Wrong bits over all layers."""
        return sum(layer.mismatches for layer in self.layers)

    @property
    def at_rounding(self) -> int:
        """Bits that differ within one rounding of a threshold, over all layers."""
        return sum(layer.at_rounding for layer in self.layers)

    @property
    def ok(self) -> bool:
        """No wrong bit, no wrong stem."""
        return self.mismatches == 0 and self.stem_errors == 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok, "mismatches": self.mismatches, "at_rounding": self.at_rounding}

    def __rich__(self) -> Table:
        total = sum(layer.bits for layer in self.layers)
        verdict = (
            "bit-exact"
            if self.ok and not self.at_rounding
            else ("exact up to rounding" if self.ok else "NOT EXACT" if self.rounds_streams else "WRONG")
        )
        table = Table(
            title=(
                f"{verdict}: {self.mismatches} wrong and {self.at_rounding} rounded differently of {total:,} bits; "
                f"output differs by at most {self.output_difference:.3g}\n"
                f"{self.float_bytes / 1e6:.2f} MB float -> {self.packed_bytes / 1e6:.3f} MB packed "
                f"({self.float_bytes / self.packed_bytes:.1f}x smaller), kernel {self.kernel}"
            ),
            title_justify="left",
        )
        for heading in ("layer", "kind", "bits compared", "wrong", "rounded", "zeros", "bytes", "output"):
            table.add_column(heading, justify="left" if heading in ("layer", "kind", "output") else "right")
        for x in self.layers:
            table.add_row(
                x.name, x.kind, f"{x.bits:,}", str(x.mismatches), str(x.at_rounding),
                f"{x.zeros:.0%}" if x.kind == "masked" else "", f"{x.bytes:,}", x.output,
                style="bold red" if x.mismatches else None,
            )  # fmt: skip
        return table

    def __str__(self) -> str:
        return as_text(self, 130)


@torch.no_grad()
def verify(model: nn.Module, packed: PackedModel, batch: Tensor) -> Verification:
    """Runs both networks and compares every activation bit that a packed convolution reads.

    Args:
        model: the trained model that `packed` was converted from; left as it is.
        packed: result of `convert` or `load`.
        batch: float32 `[N, C, H, W]`, images as the model sees them.

    Raises:
        ValueError: `packed` does not come from `model`.
    """
    model = inside_compiled(model)
    names = {name for name, _ in quantized_layers(model)}
    missing = sorted({layer.name for layer in packed.layers} ^ names)
    if missing:
        raise ValueError(
            f"trained and packed model differ in their layers: {', '.join(missing[:5])}. "
            "Verify a packed model against the model it was converted from."
        )
    recorder = _BitRecorder(packed)
    found = recorder.run(batch)
    expected, inputs = _run(model, batch)
    own_stem = OwnStem(stems_of(packed))
    bits = _by_layer(recorder.bits)
    checks = _compare(recorder.bits, bits, model, inputs, inputs, packed)
    if own_stem.stems or any(check.mismatches or check.at_rounding for check in checks):
        with own_stem:
            own_inputs = _run(model, batch, bits)[1]
        checks = _compare(recorder.bits, bits, model, own_inputs, inputs, packed)
    difference = max(
        (a.cpu() - b).abs().max().item() for a, b in zip(_tensors(expected), _tensors(found), strict=True)
    )
    return Verification(
        checks,
        output_difference=difference,
        float_bytes=_float_bytes(model),
        packed_bytes=packed_size(packed),
        kernel=next(kernel.name for kernel in cpu_kernels() if kernel.selected),
        stem_errors=own_stem.outside,
        rounds_streams=packed.rounds_streams,
    )


def _run(
    model: nn.Module, batch: Tensor, bits: dict[str, list[Tensor]] | None = None
) -> tuple[Any, dict[str, list[Tensor]]]:
    """The trained model's output in evaluation mode, and what each of its masked-binary layers read, on the CPU; see
    `recorded_inputs` for `bits`."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        model.eval()
        with recorded_inputs(model, bits) as inputs, torch.compiler.set_stance("force_eager"):
            return model(batch.to(device)), inputs
    finally:
        for module, training in modes.items():
            module.training = training


def _float_bytes(model: nn.Module) -> int:
    """Bytes of the float network: everything that is saved, without what `prepare` added."""
    added = {
        id(value)
        for _, layer in quantized_layers(model)
        for value in (layer.scale, layer.threshold, layer.plane_weight, *layer.weight_quantizer.parameters())
    }
    for module in model.modules():
        if isinstance(module, BridgedBatchNorm2d) and module.shift is not None:
            added |= {id(value) for value in module.shift.parameters()}
    tensors = (t for t in model.state_dict(keep_vars=True).values() if id(t) not in added)
    return sum(t.numel() * t.element_size() for t in tensors)


def _tensors(output: Any) -> list[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]


class _BitRecorder(Interpreter):
    """Runs the packed graph and keeps the bits that every packed convolution reads."""

    def __init__(self, packed: PackedModel):
        super().__init__(packed.graph_module)
        self.nodes = packed.convolution_nodes()
        self.bits: list[tuple[PackedLayer, Tensor]] = []

    def run_node(self, n: Node) -> Any:
        if n in self.nodes:
            arguments, options = self.fetch_args_kwargs_from_env(n)
            parts: Any = arguments[0]
            parts = [parts] if isinstance(parts, Tensor) else parts
            self.bits.append((self.nodes[n], join(parts, options.get("size", ()))))
        return super().run_node(n)


def _by_layer(recorded: list[tuple[PackedLayer, Tensor]]) -> dict[str, list[Tensor]]:
    """Layer -> bits of each call, bool `[N, C, H, W]`."""
    bits: dict[str, list[Tensor]] = {}
    for layer, words in recorded:
        found = unpack_segments(words, layer.segments).permute(0, 3, 1, 2)
        bits.setdefault(layer.name, []).append(found)
    return bits


def _compare(
    recorded: list[tuple[PackedLayer, Tensor]],
    bits: dict[str, list[Tensor]],
    model: nn.Module,
    inputs: dict[str, list[Tensor]],
    original: dict[str, list[Tensor]],
    packed: PackedModel,
) -> tuple[LayerCheck, ...]:
    """One check for each call of a packed layer; see `_by_layer` for `bits` and `_check` for the rest."""
    checks, calls = [], dict.fromkeys(inputs, 0)
    modules = dict(quantized_layers(model))
    for layer, _ in recorded:
        call, name = calls[layer.name], layer.name
        calls[name] += 1
        checks.append(
            _check(layer, modules[name], bits[name][call], inputs[name][call], original[name][call], packed)
        )
    return tuple(checks)


def _check(
    layer: PackedLayer,
    trained: QuantizedConvolution,
    found: Tensor,
    x: Tensor,
    original: Tensor,
    packed: PackedModel,
) -> LayerCheck:
    """`x` is what the layer read behind the packed stem and settled bits, `original` what it read by itself."""
    x, original = (torch.cat([trained.as_images(read)] * trained.planes, 1) for read in (x, original))
    threshold = trained.threshold.detach().cpu().to(x.dtype).view(1, -1, 1, 1)
    wrong = (x - threshold >= 0) != found
    close = is_close(x, threshold)
    weight = packed.weight(layer)
    planes = getattr(packed.graph_module, layer.planes)
    return LayerCheck(
        name=layer.name,
        kind=layer.kind,
        bits=wrong.numel(),
        mismatches=int((wrong & ~close).sum()),
        at_rounding=int(((wrong & close) | (~wrong & (found != (original - threshold >= 0)))).sum()),
        zeros=(weight == 0).float().mean().item(),
        bytes=planes.numel() * planes.element_size() // (layer.groups * (1 if layer.kind == "masked" else 2)),
        output="bits" if layer.fused else "float",
    )


def unpack_segments(bits: Tensor, segments: tuple[int, ...]) -> Tensor:
    """int32 `[N, H, W, Cw]` -> bool `[N, H, W, C]`, each segment starting at a new word."""
    parts, start = [], 0
    for channels in segments:
        words = -(-channels // 32)
        parts.append(unpack_bits(bits[..., start : start + words], channels))
        start += words
    return torch.cat(parts, dim=-1)
