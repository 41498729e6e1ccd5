"""The module surgery: a Plan applied to a model, in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from .absorbed import AbsorbedActivation, absorb_calls
from .compiled import inside_compiled
from .layers import QuantizedConvolution, quantize_layer
from .linear import quantize_linear
from .opened_norms import OpenedNorms
from .plan import Plan
from .residual import BridgedBatchNorm2d, bridged_norm


def prepare(
    model: nn.Module,
    plan: Plan,
    *,
    mask_rule: str = "twn",
    sparsity: float = 0.5,
    mask_blocks: tuple[int, int] | None = None,
    block_density: float = 0.5,
    scale: bool | str = True,
    estimator: str = "clipped",
) -> nn.Module:
    """Replaces the layers that `plan` names by masked-binary ones, in place; applying it twice changes nothing more.

    Latent weights are the model's own parameters under their old names; only keys are added. All gates are 1: the
    model is fully quantized, ready for `convert`. `MBUQuantize` lowers them again while it trains.

    Args:
        model: the model that the plan was made for.
        plan: see `make_plan`.
        mask_rule, sparsity: how masked layers choose their zeros (`quantizers.MaskedWeight`).
        mask_blocks, block_density: zeros in whole blocks instead (`absent_blocks.BlockMaskedWeight`).
        scale: `"learned"` (True), `"analytic"` or `"none"` (False), see `layers.quantize_layer`.
        estimator: straight-through estimator of the activations (`quantizers.ESTIMATORS`).

    Returns:
        `model`.

    Raises:
        ValueError: the plan does not fit the model; nothing has been changed then.
    """
    prepared, model = model, inside_compiled(model)
    with OpenedNorms(model) as norms:
        modules = dict(model.named_modules(remove_duplicate=False))
        missing = [x.name for x in plan.quantized if x.name not in modules]
        missing += [name for name in (*plan.bypassed, *sum(plan.silenced, ())) if name not in modules]
        missing += [x.norm for x in plan.quantized if x.norm and x.norm not in modules]
        if missing:
            raise ValueError(
                f"the plan names {missing}, which this model does not have. "
                "Make the plan from this model: make_plan(model, example_input)."
            )
        replacements: dict[int, nn.Module] = {}
        for layer in plan.quantized:
            module = modules[layer.name]
            if isinstance(module, QuantizedConvolution):
                if (module.kind, module.absorbs, module.planes) != (layer.kind, layer.absorbs, layer.planes):
                    raise ValueError(
                        f"layer {layer.name!r} is already {module.kind} and the plan wants {layer.kind} (planes "
                        f"{module.planes} and {layer.planes}). Apply a new plan to a fresh float model."
                    )
                continue
            quantize: Any = quantize_linear if isinstance(module, nn.Linear) else quantize_layer
            new = replacements[id(module)] = quantize(
                module, layer.kind, mask_rule=mask_rule, sparsity=sparsity,
                mask_blocks=mask_blocks, block_density=block_density, scale=scale, estimator=estimator,
                threshold=layer.threshold, absorbs=layer.absorbs, planes=layer.planes,
            )  # fmt: skip
            if layer.norm:
                norm = modules[layer.norm]
                if not isinstance(norm, BridgedBatchNorm2d):
                    norm = bridged_norm(cast("nn.BatchNorm2d", norm), layer.shortcut, layer.shift)
                    replacements[id(modules[layer.norm])] = norm
                new.set_bridge(norm)
        norms.keep()
    for name in plan.bypassed:
        if not isinstance(modules[name], AbsorbedActivation):
            replacements[id(modules[name])] = AbsorbedActivation(type(modules[name]).__name__)
    for name, module in modules.items():
        if id(module) in replacements and name:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, replacements[id(module)])
    absorb_calls(model, plan.silenced)
    model.mbu_plan = plan  # type: ignore[assignment]
    return prepared


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that `prepare` has applied to `model`; None for a float model."""
    found = getattr(inside_compiled(model), "mbu_plan", None)
    return found if isinstance(found, Plan) else None


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedConvolution]]:
    """Name and module of every masked-binary layer in `model`."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedConvolution):
            yield name, module
