"""convert: a trained masked-binary model -> a packed one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_unflatten

from mbu_ops.modules import PackedConv2d, PackedLinear
from mbu_ops.packing import pack_weight

from ..compiled import inside_compiled, plain_name, without_compiled
from ..layers import QuantizedConvolution
from ..linear import MaskedBinaryLinear
from ..prepare import quantized_layers
from ..residual import BridgedBatchNorm2d
from ..weight_quantizers import INTEGER_KINDS
from . import passes
from .graph import CONVOLUTIONS, GEMM, is_call, mbu
from .packed import InputSpec, PackedModel, lay_out_weights

_SMALL_SIZE = (64, 64)  # pixels; the multiple of most networks (32) divides it, and it runs in milliseconds
# Multiples beyond it that are tried, while they are fewer pixels than 64: levels of a network round up or down by turns,
# so that one odd size may fit where the next does not.
_TRIED = (1, 3, 13, 27)


def convert(
    model: nn.Module, example_input: Tensor, *, fuse: bool = True, stream_dtype: str = "float32"
) -> PackedModel:
    """Packs the weights and activations of a trained masked-binary model into bits.

    Args:
        model: trained with `MBUQuantize` or made by `prepare`, all gates at 1. It is copied and left as it is.
        example_input: float32 `[N, C, H, W]` that the model accepts; the result takes other sizes too.
        fuse: fold thresholds and move bits instead of floats. False keeps every float operation of the trained
            network in its place, and packs the convolutions only.
        stream_dtype: `"bfloat16"` stores the float streams between residual layers in half the memory. Bits then differ
            from the trained network's where rounding crosses a threshold; `verify` counts them. A network that was
            trained with rounded streams (`MBUNet(stream_dtype="int8")`) stores them so in any case, and is exact.

    Returns:
        The packed model, on the CPU, in evaluation mode.

    Raises:
        TypeError: `example_input` is not a float32 tensor.
        ValueError: another `stream_dtype`, no quantized layer, a layer that is not fully quantized, values that are
            NaN, infinite or not float32, a batch norm whose factor is infinite, or an input that the model does not accept.
    """
    if stream_dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"stream_dtype={stream_dtype!r}; it must be 'float32' or 'bfloat16'; int8 has to be "
            "trained: MBUNet(stream_dtype='int8')."
        )
    model = inside_compiled(model)
    layers = _checked_layers(model)
    if not isinstance(example_input, Tensor) or example_input.dtype != torch.float32:
        found = example_input.dtype if isinstance(example_input, Tensor) else type(example_input).__name__
        raise TypeError(f"example_input is {found}; give a float32 tensor [N, C, H, W].")
    rounded = False
    kinds = {name: layer.kind for name, layer in layers.items()}
    names = {id(layer): name for name, layer in layers.items()}
    aliases = {
        plain_name(alias): names[id(layer)]
        for alias, layer in model.named_modules(remove_duplicate=False)
        if id(layer) in names
    }
    module = _export(pack_layers(model), example_input)
    # Before the passes: a convolution that fits its inputs to each other would run at sizes that the model rejects.
    multiple = _size_multiple(module, example_input)
    _mark(module, aliases)
    passes.clean(module)
    passes.merge_packs(module)
    if fuse:
        passes.lift_packs(module)
        passes.average_parts(module)
        passes.merge_packs(module)
        passes.fold_convolution_thresholds(module)
        passes.fuse_stems(module)
        passes.spread_gates(module)
        passes.fuse_streams(module)
        passes.narrow_streams(module)
        passes.lift_packs(module)  # shortcuts no longer need what was pooled or joined for them
        passes.merge_packs(module)
        passes.read_narrow(module)
        passes.attach_bits(module)
        rounded = stream_dtype == "bfloat16" and passes.round_streams(module)
        passes.fold_activation_thresholds(module)
        passes.merge_packs(module)
        passes.fuse_heads(module)
        passes.average_parts(module)  # heads no longer need what was joined for them
        passes.join_inputs(module)
        passes.merge_planes(module)
        passes.join_narrow(module)
        passes.lean_floats(module)
    packed_layers = lay_out_weights(module, kinds, {name: layer.groups for name, layer in layers.items()})
    spec = InputSpec(example_input.shape[1], multiple)
    return PackedModel(module, packed_layers, spec, rounds_streams=rounded)


def _checked_layers(model: nn.Module) -> dict[str, QuantizedConvolution]:
    layers = dict(quantized_layers(model))
    if not layers:
        raise ValueError(
            "this model has no masked-binary layers to pack. Train it with MBUQuantize(), "
            "or apply prepare(model, make_plan(model, example_input)) first."
        )
    integers = [f"{name} ({layer.kind})" for name, layer in layers.items() if layer.kind in INTEGER_KINDS]
    if integers:
        raise ValueError(
            f"{len(integers)} layers have integer weights: {', '.join(integers[:3])}. They are for comparison in "
            "studies and have no packed kernel; train these layers as masked or binary to pack them."
        )
    gates = {name: float(layer.gate * layer.weight_gate) for name, layer in layers.items()}
    unfinished = [f"{name} (gate {gate:g})" for name, gate in gates.items() if gate != 1]
    if unfinished:
        raise ValueError(
            f"{len(unfinished)} of {len(layers)} layers are not fully quantized yet: {', '.join(unfinished[:3])}. "
            "Convert after training has reached its last phase, or set the gates: layer.gate.fill_(1), "
            "layer.weight_gate.fill_(1)."
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(
                f"{name!r} is {tensor.dtype}; a packed network repeats float32 arithmetic. Call "
                "convert(model.float(), example_input), and verify against the same model."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name!r} has NaN or infinite values; no threshold can be found for them. "
                "Restore the last good checkpoint."
            )
    _check_batch_norms(model)
    return layers


@torch.no_grad()
def _check_batch_norms(model: nn.Module) -> None:
    """Raises ValueError where a batch norm, as ATen computes it (x * factor + offset), multiplies or adds infinity."""
    for name, norm in model.named_modules():
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
            continue
        factor = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
        offset = (0.0 if norm.bias is None else norm.bias) - norm.running_mean * factor
        wrong = (~(factor.isfinite() & offset.isfinite())).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"batch norm {name!r} leaves the range of float32 in channels {wrong[:5]}: weight / sqrt(running_var + eps) "
                "or its product with running_mean is infinite, and so is what the network computes there. Restore an "
                "earlier checkpoint, or train with a smaller learning rate for the batch norms."
            )


@torch.no_grad()
def pack_layers(model: nn.Module) -> nn.Module:
    """A copy of `model`, on the CPU in evaluation mode, with a packed layer for each masked-binary one.

    Right by itself: every other operation stays as it is.
    """
    packed = without_compiled(copy.deepcopy(model)).cpu().eval()
    modules = dict(packed.named_modules(remove_duplicate=False))
    replacements = {id(m): pack_layer(m) for m in modules.values() if isinstance(m, QuantizedConvolution)}
    if isinstance(packed, QuantizedConvolution):
        return replacements[id(packed)]
    for name, module in modules.items():
        if id(module) in replacements:
            owner, _, attribute = name.rpartition(".")
            setattr(packed.get_submodule(owner), attribute, replacements[id(module)])
    return packed


class _BridgedConv2d(PackedConv2d):
    """A packed layer with the batch norm, activation and shortcut that its trained counterpart runs."""

    def set_bridge(self, norm: BridgedBatchNorm2d) -> None:
        self._bridge = (norm,)  # in a tuple: it is another module's child

    def forward(self, x: Tensor) -> Tensor:
        return self._bridge[0].bridge(super().forward(x), x, None)


@torch.no_grad()
def pack_layer(layer: QuantizedConvolution) -> PackedConv2d | PackedLinear:
    """The packed counterpart of one trained layer."""
    learned = {
        "threshold": layer.threshold.detach().float().clone() if layer.learns_threshold else None,
        "scale": None if (scale := layer.effective_scale()) is None else scale.detach().float().clone(),
        "bias": None if layer.bias is None else layer.bias.detach().float().clone(),
    }
    if isinstance(layer, MaskedBinaryLinear):
        weight = layer.quantized_weight().to(torch.int8)[:, :, None, None]
        return PackedLinear(pack_weight(weight), layer.in_features, **learned)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    weight = layer.quantized_weight().to(torch.int8)
    padding = layer.padding
    if isinstance(padding, str):  # "valid", or "same" with odd extents (a plan leaves others float)
        extents = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = tuple(e // 2 for e in extents) if padding == "same" else (0, 0)
    bridge = layer.bridge
    packed = (PackedConv2d if bridge is None else _BridgedConv2d)(
        pack_weight(weight.transpose(0, 1) if transposed else weight, groups=layer.groups),
        layer.in_channels,
        thresholds_per_channel=layer.planes,
        **learned,
        stride=layer.stride,
        padding=padding,
        dilation=layer.dilation,
        transposed=transposed,
        output_padding=layer.output_padding,
    )
    if bridge is not None:
        assert isinstance(packed, _BridgedConv2d)
        packed.set_bridge(bridge)
    return packed


def _export(model: nn.Module, example_input: Tensor) -> GraphModule:
    # Batch 2: export would otherwise take a batch of 1 for a constant.
    example = example_input.detach().cpu()
    example = (
        torch.cat([example, example])[:2].contiguous()
        if len(example)
        else example.new_zeros(2, *example.shape[1:])
    )
    try:
        with torch.no_grad():
            dynamic = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
            program = torch.export.export(model, (example,), dynamic_shapes=(dynamic,))
            module = program.module()
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the model cannot be exported with an input of shape {tuple(example_input.shape)}: {first_line} "
            "Give an input that model(example_input) accepts, and keep Python control flow on tensor values "
            "out of forward."
        ) from error
    assert isinstance(module, GraphModule)
    return _plain(module)


def _plain(module: GraphModule) -> GraphModule:
    """Without what export wraps around a graph: its own call convention, and a `train` that raises."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    specification = module.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
    output.args = (tree_unflatten(output.args[0], specification),)
    module.graph.set_codegen(CodeGen())
    for node in list(module.graph.nodes):
        if node.op == "call_module":  # `_guards_fn`: shape guards; PackedModel checks its input itself
            module.graph.erase_node(node)
    return GraphModule(module, module.graph)


def _mark(module: GraphModule, aliases: dict[str, str]) -> None:
    """Notes on each packed convolution which layer it is, and on each pack how its channels lie in words.

    Args:
        module: an exported graph.
        aliases: every name of every layer -> its first name: export calls a module that stands in several places by
            any one of them.
    """
    for node in module.graph.nodes:
        if is_call(node, *CONVOLUTIONS, GEMM):
            weight = node.args[1]
            place = str(weight.target).rpartition(".")[0]
            node.meta["layer"] = aliases.get(place, place)
            # From here to `lay_out_weights` the node holds the neutral planes, not a processor's layout.
            with module.graph.inserting_before(node):
                planes = module.graph.get_attr(f"{place}.planes")
            node.replace_input_with(weight, planes)
        elif is_call(node, mbu.pack.default):
            node.meta["segments"] = (int(node.args[0].meta["val"].shape[1]),)


def _size_multiple(module: GraphModule, example_input: Tensor) -> int:
    """The smallest power of two that height and width must be multiples of, found by trying small images."""
    channels, *size = example_input.shape[1:]
    for height, width in (_SMALL_SIZE, size):
        multiple = 1
        while multiple <= min(height, width):
            more = [count * multiple for count in _TRIED if count == 1 or count * multiple < 64]
            try:
                with torch.no_grad():
                    for pixels in more:
                        module(torch.zeros(1, channels, height + pixels, width + pixels))
                return multiple
            except RuntimeError:
                multiple *= 2
    raise ValueError(
        f"the packed model runs at no size near {size[0]}x{size[1]}. "
        "Give an example input whose height and width are equal powers of two, such as 256x256."
    )
