"""Plan: which layer becomes masked-binary, binary or stays float, in which order, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace

from rich.table import Table
from torch import Tensor, nn

from .activations import read_activations
from .compiled import inside_compiled
from .cost import cost_scores, layer_cost, warn_if_low
from .eligibility import why_float
from .linear import linear_calls
from .opened_norms import OpenedNorms
from .residual import add_bridges
from .roles import assign_roles, block_of
from .schedule import ORDERS, conversion_positions
from .tables import as_text
from .trace import trace

PLAN_VERSION = 1


@dataclass(frozen=True)
class LayerPlan:
    """The decision for one convolution.

    Attributes:
        name: dotted module name.
        role: stem, encoder, decoder or head.
        kind: `"masked"`, `"binary"` or `"float"`.
        reason: why.
        macs: multiply-adds at the plan's input shape.
        weights: entries of the weight tensor.
        cost: score of the layer's block (MBU-Net, Eq. 2); None where it is not ranked.
        rank: place of the block, 1 = cheapest.
        position: place in the conversion order, 0 first; None for float layers.
        threshold: `"learned"` or `"zero"`: activation threshold of the layer's binarizer.
        absorbs: activation that its binarizer takes the place of.
        planes: thresholds per input channel (thermometer code); multiplies the layer's one-bit operations.
        norm: batch norm behind it that carries what the next two add; `""` where neither does.
        shortcut: a real-valued shortcut leads around layer and norm.
        shift: a shifted activation (RPReLU) follows the norm.
    """

    name: str
    role: str
    kind: str
    reason: str
    macs: int
    weights: int
    cost: float | None = None
    rank: int | None = None
    position: int | None = None
    threshold: str = "zero"
    absorbs: str = "none"
    planes: int = 1
    norm: str = ""
    shortcut: bool = False
    shift: bool = False


@dataclass(frozen=True)
class Plan:
    """What becomes of each convolution of a model; see `make_plan`.

    Attributes:
        layers: in executed order.
        bypassed: activation modules whose only readers are binarizers; these absorb them.
        silenced: those with other readers too, each with the module behind which binarizers alone read it.
        input_shape: shape of the example input.
        other_macs: multiply-adds outside convolutions (linear layers, attention), which stay float.
    """

    layers: tuple[LayerPlan, ...]
    bypassed: tuple[str, ...]
    input_shape: tuple[int, ...]
    other_macs: int = 0
    silenced: tuple[tuple[str, str], ...] = ()

    @property
    def quantized(self) -> tuple[LayerPlan, ...]:
        """The layers that become binary or masked, in conversion order."""
        return tuple(sorted((x for x in self.layers if x.kind != "float"), key=lambda x: x.position or 0))

    @property
    def one_bit_share(self) -> float:
        """Share of all multiply-adds that becomes one-bit, in [0, 1]."""
        total = sum(layer.macs for layer in self.layers) + self.other_macs
        return sum(layer.macs for layer in self.quantized) / total if total else 0.0

    def to_json(self) -> str:
        return json.dumps({"version": PLAN_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads `to_json` back.

        Raises:
            ValueError: not a plan, or one of a newer version.
        """
        try:
            data = json.loads(text)
            version = data["version"]
            if version > PLAN_VERSION:
                raise ValueError(
                    f"the plan has version {version}; this lightning-mbu reads up to {PLAN_VERSION}. Upgrade it."
                )
            known = {field.name for field in fields(LayerPlan)}
            layers = tuple(
                LayerPlan(**{k: v for k, v in layer.items() if k in known}) for layer in data["layers"]
            )
            rest = data.get("other_macs", 0), tuple((a, b) for a, b in data.get("silenced", ()))
            return cls(layers, tuple(data["bypassed"]), tuple(data["input_shape"]), *rest)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"this is not a plan written by Plan.to_json: {error!r}") from error

    def __rich__(self) -> Table:
        size = "x".join(str(n) for n in self.input_shape)
        table = Table(
            title=f"Plan at input {size}: {self.one_bit_share:.1%} of the multiply-adds become one-bit",
            title_justify="left",
        )
        for heading, justify in (
            ("layer", "left"), ("role", "left"), ("becomes", "left"), ("order", "right"), ("cost", "right"),
            ("rank", "right"), ("MMAC", "right"), ("weights", "right"), ("why", "left"),
        ):  # fmt: skip
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for layer in self.layers:
            table.add_row(
                layer.name, layer.role, layer.kind, *("" if v is None else str(v) for v in (layer.position,)),
                "" if layer.cost is None else f"{layer.cost:.3f}", "" if layer.rank is None else str(layer.rank),
                f"{layer.macs / 1e6:,.1f}", f"{layer.weights:,}", layer.reason,
                style="dim" if layer.kind == "float" else None,
            )  # fmt: skip
        return table

    def __str__(self) -> str:
        return as_text(self, 150)


def make_plan(
    model: nn.Module,
    example_input: Tensor,
    *,
    masked: float | str = 2 / 3,
    w_op: float = 0.5,
    w_param: float = 0.5,
    order: str = "forward",
    thresholds: str = "auto",
    planes: int = 1,
    shortcuts: bool = False,
    shift: bool = False,
    min_channels: int = 8,
    exclude: Sequence[str] = (),
    linear: bool = False,
) -> Plan:
    """Decides for each convolution whether it becomes masked-binary, binary or stays float.

    First and last executed layers, heads, depthwise convolutions, squeeze-excite layers and layers or groups with few
    channels stay float. Of the blocks that remain, the cheapest are masked (MBU-Net, section 3.1.2); stem layers
    behind the first convolution are always masked, as in the paper.

    Args:
        model: any module that takes one tensor.
        example_input: `[N, C, H, W]`; sets the sizes that the costs refer to.
        masked: share of the blocks to mask, cheapest first, in [0, 1]; or `"all"` or `"none"`.
            The default masks 8 of the paper's 12.
        w_op, w_param: weights of operations and parameters in the cost score (Eq. 2).
        order: in which order layers become one-bit: `"forward"` (input to output), `"reverse"`, `"cost"`
            (cheapest block first) or `"all"` (at once).
        thresholds: `"auto"` learns an activation threshold where the layer's input is not known to be centred,
            `"learned"` everywhere, `"zero"` nowhere.
        planes: thresholds per channel; 2 or 3 make thermometer activations, at as many times the operations.
        shortcuts: add real-valued shortcuts around layers of equal shape (Bi-Real Net, arXiv:1808.00278).
        shift: add shifted activations in front of sums (RPReLU of ReActNet, arXiv:2003.03488).
        min_channels: layers with fewer input or output channels, of each group if grouped, stay float.
        exclude: names of layers, or of modules that contain them, to leave float.
        linear: make linear layers (`nn.Linear`, in the encoders that are transformers) one-bit too.

    Raises:
        ValueError: an option out of range, an excluded name that does not exist, an input that the model does not
            accept, or a model in which nothing can be quantized.
    """
    _check_options(model := inside_compiled(model), masked, order, thresholds, exclude)
    if thresholds == "auto" and (planes > 1 or shortcuts):
        thresholds = "learned"
    with OpenedNorms(model):
        traced = trace(model, example_input)
        used = traced.used()
        convolutions = {
            name: calls
            for name, calls in traced.convolutions().items()
            if isinstance(model.get_submodule(name), nn.Conv2d | nn.ConvTranspose2d)
        }
        roles = assign_roles(convolutions)
        if linear:
            found = {**convolutions, **linear_calls(traced, model)}
            convolutions = dict(sorted(found.items(), key=lambda item: item[1][0].index))
            roles = {name: roles.get(name, "linear") for name in convolutions}
        layers = []
        for name, calls in convolutions.items():
            module = model.get_submodule(name)
            assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
            cost = layer_cost(name, calls, module.weight.numel())
            reason = why_float(name, module, calls, roles, convolutions, min_channels, exclude)
            if used.isdisjoint(op.index for op in calls):
                reason = "unused: the model computes it and returns nothing that depends on it"
            layers.append(LayerPlan(name, roles[name], "float", reason, cost.macs, cost.weights))
        candidates = [layer.name for layer in layers if not layer.reason]
        if not candidates:
            raise ValueError(
                "this model has nothing to quantize: "
                + ("; ".join(f"{x.name}: {x.reason}" for x in layers) if layers else "it has no convolutions")
                + ". Lower min_channels or shorten `exclude` if one of these should be one-bit."
            )
        ranked = [name for name in candidates if roles[name] != "stem"]
        scores = cost_scores(
            [layer_cost(name, convolutions[name], model.get_submodule(name).weight.numel()) for name in ranked],  # type: ignore[operator,union-attr]
            w_op, w_param,
        )  # fmt: skip
        share = {"all": 1.0, "none": 0.0}.get(masked, masked) if isinstance(masked, str) else masked
        blocks = list(scores)
        masked_blocks = set(blocks[: round(float(share) * len(blocks))])
        activations = read_activations(traced, model, set(candidates))
        positions = conversion_positions(
            candidates, {name: scores.get(block_of(name), 0.0) for name in candidates}, order
        )

        decided = []
        for layer in layers:
            if layer.reason:
                decided.append(layer)
                continue
            block = block_of(layer.name)
            source = activations.layers[layer.name]
            in_mask = layer.role == "stem" or block in masked_blocks
            reason = f"{'among' if in_mask else 'beyond'} the {len(masked_blocks)} cheapest blocks"
            if layer.role == "stem":
                reason = "stem: always masked"
            elif share in (0.0, 1.0):
                reason = "every block is masked" if share else "no block is masked"
            decided.append(replace(
                layer, kind="masked" if in_mask else "binary", reason=reason, cost=scores.get(block),
                rank=blocks.index(block) + 1 if block in scores else None, position=positions[layer.name],
                threshold=("zero" if source.centred else "learned") if thresholds == "auto" else thresholds,
                absorbs=source.absorbs,
                planes=planes if getattr(model.get_submodule(layer.name), "groups", 0) == 1 else 1,
            ))  # fmt: skip
        shape = tuple(example_input.shape)
        other_macs = traced.other_macs() - sum(x.macs for x in layers if x.role == "linear")
        plan = Plan(tuple(decided), activations.bypassed, shape, other_macs, activations.silenced)
        rest = [(x.reason, x.macs) for x in layers if x.reason]
        warn_if_low(plan.one_bit_share, [*rest, ("linear and attention", plan.other_macs)])
        return add_bridges(plan, traced, model, shortcuts, shift)


def _check_options(
    model: nn.Module, masked: float | str, order: str, thresholds: str, exclude: Iterable[str]
) -> None:
    if masked not in ("all", "none") if isinstance(masked, str) else not 0 <= masked <= 1:
        raise ValueError(f"masked={masked} must be a share between 0 and 1, 'all' or 'none'.")
    if order not in ORDERS:
        raise ValueError(f"order={order!r} is unknown; choose one of {', '.join(ORDERS)}.")
    if thresholds not in ("auto", "learned", "zero"):
        raise ValueError(f"thresholds={thresholds!r} is unknown; choose auto, learned or zero.")
    names = {name for name, _ in model.named_modules()}
    missing = [name for name in exclude if name not in names]
    if missing:
        raise ValueError(
            f"exclude names {missing}, which this model does not have; its modules are {sorted(names)}."
        )
