"""What each quantized layer reads: which activation its binarizer absorbs, and whether its input is centred.

After a ReLU everything is >= 0 and sign() is constant. Two ways out, decided here by following the data:
a ReLU whose only readers are binarizers is taken out of the model and lives on inside them (they apply it in the
float phase and ignore it afterwards); any other non-negative input gets a learned threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .trace import Operation, Trace

# Operations that commute with an elementwise monotone function that is 0 at 0, and with sign.
TRANSPARENT = frozenset(
    {"max_pool2d_with_indices", "cat", "upsample_nearest2d", "clone", "alias", "detach", "_to_copy", "view"}
)
_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
                    "native_group_norm", "native_layer_norm"})  # fmt: skip
_ABSORBABLE_MODULES = {nn.ReLU: "relu", nn.ReLU6: "relu6"}


@dataclass(frozen=True)
class ActivationSource:
    """What one layer reads.

    Attributes:
        absorbs: name of the activation that its binarizer takes over, or `"none"`.
        centred: every part of its input comes straight from a normalization, so a threshold of zero splits it.
    """

    absorbs: str
    centred: bool


@dataclass(frozen=True)
class Activations:
    """`layers`: quantized layer -> what it reads; `bypassed`: activation modules to take out."""

    layers: dict[str, ActivationSource]
    bypassed: tuple[str, ...]


def read_activations(traced: Trace, model: nn.Module, quantized: set[str]) -> Activations:
    """Follows the data into every layer of `quantized`.

    Args:
        traced: `trace(model, example_input)`.
        model: the traced model, before `prepare`.
        quantized: names of the layers that become one-bit.
    """
    readers = traced.readers()
    layer_inputs = {
        op.index: _sources(traced, op.inputs[0])
        for op in traced.operations
        if op.name in ("convolution", "mm", "addmm") and op.module in quantized
    }
    bypassed = _bypassable(traced, model, readers, set(layer_inputs))
    while True:
        # A binarizer can take over one activation only if all that it reads went through that activation:
        # applied to a part that did not, it would change the float phase.
        kept = {
            op for op in bypassed
            if all(
                all(_agrees(traced, source, bypassed, bypassed[op]) for source in layer_inputs[layer])
                for layer in _layers_behind(op, readers, layer_inputs)
            )
        }  # fmt: skip
        if len(kept) == len(bypassed):
            break
        bypassed = {op: bypassed[op] for op in kept}

    layers: dict[str, ActivationSource] = {}
    for index, sources in layer_inputs.items():
        operations = [traced.operations[s] if s >= 0 else None for s in sources]
        absorbs = {bypassed[s] for s in sources if s in bypassed}
        centred = all(
            op is not None and (_feeds_from_norm(traced, op) if op.index in bypassed else op.name in _NORMS)
            for op in operations
        )
        name = traced.operations[index].module
        before = layers.get(name)
        source = ActivationSource(next(iter(absorbs), "none"), centred)
        layers[name] = source if before in (None, source) else ActivationSource(source.absorbs, False)
    return Activations(layers, tuple(sorted({traced.operations[op].module for op in bypassed})))


def _sources(traced: Trace, index: int) -> frozenset[int]:
    """The operations behind `index`, seen through transparent ones; -1 is the model's input."""
    if index < 0 or traced.operations[index].name not in TRANSPARENT:
        return frozenset({index})
    return frozenset().union(*(_sources(traced, source) for source in traced.operations[index].inputs))


def _agrees(traced: Trace, source: int, bypassed: dict[int, str], activation: str) -> bool:
    """Whether `activation` may be applied to `source` without changing the float phase (ReLU twice is ReLU)."""
    if source in bypassed:
        return bypassed[source] == activation
    return source >= 0 and activation == "relu" and traced.operations[source].name == "relu"


def _feeds_from_norm(traced: Trace, op: Operation) -> bool:
    return all(s >= 0 and traced.operations[s].name in _NORMS for s in _sources(traced, op.inputs[0]))


def _bypassable(
    traced: Trace, model: nn.Module, readers: dict[int, list[Operation]], layer_inputs: set[int]
) -> dict[int, str]:
    """Operation -> activation name, for activation modules that run once and feed quantized layers only."""
    calls: dict[str, list[Operation]] = {}
    for op in traced.operations:
        calls.setdefault(op.module, []).append(op)
    found = {}
    for module, operations in calls.items():
        name = _ABSORBABLE_MODULES.get(type(model.get_submodule(module)))
        if name and len(operations) == 1 and _only_layers_read(operations[0], readers, layer_inputs):
            found[operations[0].index] = name
    return found


def _only_layers_read(op: Operation, readers: dict[int, list[Operation]], layer_inputs: set[int]) -> bool:
    reading = readers.get(op.index, [])
    return bool(reading) and all(
        reader.index in layer_inputs
        or (reader.name in TRANSPARENT and _only_layers_read(reader, readers, layer_inputs))
        for reader in reading
    )


def _layers_behind(
    op: int, readers: dict[int, list[Operation]], layer_inputs: dict[int, frozenset[int]]
) -> set[int]:
    found: set[int] = set()
    for reader in readers.get(op, []):
        found |= (
            {reader.index}
            if reader.index in layer_inputs
            else _layers_behind(reader.index, readers, layer_inputs)
        )
    return found
