"""What each quantized layer reads: which activation its binarizer absorbs, and whether its input is centred.

After a ReLU everything is >= 0 and sign() is constant. Two ways out, decided here by following the data:
a ReLU whose only readers are binarizers is taken out of the model and lives on inside them (they apply it in the
float phase and ignore it afterwards), as a whole or for single calls; any other non-negative input gets a learned
threshold.
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
    """What `read_activations` finds.

    Attributes:
        layers: quantized layer -> what it reads.
        bypassed: activation modules to take out.
        silenced: activation module and the module behind whose output alone to take it out.
    """

    layers: dict[str, ActivationSource]
    bypassed: tuple[str, ...]
    silenced: tuple[tuple[str, str], ...]


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
    # Layer -> what it reads; one that runs twice has one binarizer for both.
    everything: dict[str, frozenset[int]] = {}
    for index, sources in layer_inputs.items():
        name = traced.operations[index].module
        everything[name] = everything.get(name, frozenset()) | sources
    calls = _calls(traced)
    bypassed = _bypassable(traced, model, readers, set(layer_inputs))
    while True:
        # A binarizer can take over one activation only if all that it reads went through that activation:
        # applied to a part that did not, it would change the float phase.
        kept = {
            op for op in bypassed
            if all(
                all(_agrees(traced, source, bypassed, bypassed[op]) for source in everything[layer])
                for layer in _layers_behind(traced, op, readers, layer_inputs)
            )
            and (_whole(traced, op, calls, bypassed) or _silencer(traced, op, model, calls, quantized, bypassed))
        }  # fmt: skip
        if len(kept) == len(bypassed):
            break
        bypassed = {op: bypassed[op] for op in kept}

    layers = {}
    for name, sources in everything.items():
        operations = [traced.operations[s] if s >= 0 else None for s in sources]
        absorbs = {bypassed[s] for s in sources if s in bypassed}
        centred = all(
            op is not None and (_feeds_from_norm(traced, op) if op.index in bypassed else op.name in _NORMS)
            for op in operations
        )
        layers[name] = ActivationSource(next(iter(absorbs), "none"), centred)
    whole = {op for op in bypassed if _whole(traced, op, calls, bypassed)}
    return Activations(
        layers,
        tuple(sorted({traced.operations[op].module for op in whole})),
        tuple(dict.fromkeys(
            (traced.operations[op].module, traced.operations[op - 1].module)
            for op in sorted(bypassed.keys() - whole)
        )),
    )  # fmt: skip


def _calls(traced: Trace) -> dict[str, list[int]]:
    """Module -> its operations."""
    calls: dict[str, list[int]] = {}
    for op in traced.operations:
        calls.setdefault(op.module, []).append(op.index)
    return calls


def _whole(traced: Trace, op: int, calls: dict[str, list[int]], bypassed: dict[int, str]) -> bool:
    """Whether every call of the activation that runs `op` is taken out."""
    return all(call in bypassed for call in calls[traced.operations[op].module])


def _silencer(
    traced: Trace,
    op: int,
    model: nn.Module,
    calls: dict[str, list[int]],
    quantized: set[str],
    bypassed: dict[int, str],
) -> bool:
    """Whether the module that runs right before `op` tells this call of the activation from those that stay: its
    output is what `op` reads, and each of its own calls is followed by one that is taken out."""
    activation = traced.operations[op]
    if activation.inputs != (op - 1,):
        return False
    producer = traced.operations[op - 1].module
    return (
        producer not in ("", activation.module)
        and producer not in quantized
        and next(model.get_submodule(producer).children(), None) is None
        and all(
            call + 1 in bypassed and traced.operations[call + 1].module == activation.module
            for call in calls[producer]
        )
    )


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
    """Operation -> activation name, for calls of activation modules that feed quantized layers only."""
    found = {}
    for op in traced.operations:
        name = _ABSORBABLE_MODULES.get(type(model.get_submodule(op.module)))
        if name and _only_layers_read(op, readers, layer_inputs):
            found[op.index] = name
    return found


def _only_layers_read(op: Operation, readers: dict[int, list[Operation]], layer_inputs: set[int]) -> bool:
    reading = readers.get(op.index, [])
    return bool(reading) and all(
        reader.index in layer_inputs
        or (reader.name in TRANSPARENT and _only_layers_read(reader, readers, layer_inputs))
        for reader in reading
    )


def _layers_behind(
    traced: Trace, op: int, readers: dict[int, list[Operation]], layer_inputs: dict[int, frozenset[int]]
) -> set[str]:
    found: set[str] = set()
    for reader in readers.get(op, []):
        found |= (
            {reader.module}
            if reader.index in layer_inputs
            else _layers_behind(traced, reader.index, readers, layer_inputs)
        )
    return found
