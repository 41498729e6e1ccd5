"""One run of a model on fake tensors, written down: which operation, in which module, reading what.

Plans need facts that a module tree does not hold: the executed order, spatial sizes, who reads an activation.
The run allocates nothing and computes nothing (`FakeTensorMode`), so it takes well under a second for any U-Net.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Matrix products -> place of the left factor among their tensors.
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}


@dataclass(frozen=True)
class Operation:
    """One ATen call.

    Attributes:
        index: position in executed order.
        name: ATen name without overload, in-place and out-of-place alike (`relu`, `convolution`, `cat`).
        module: dotted name of the innermost module that made the call; `""` is the model itself.
        inputs: indices of the operations that produced its tensor arguments; -1 is the model's input.
        shape: shape of its first output.
        macs: multiply-adds of a convolution, matrix product or attention, else 0.
        transposed: a transposed convolution.
    """

    index: int
    name: str
    module: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    macs: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Trace:
    """The operations of one run and the readers of each; `outputs` are those whose results the model returns."""

    operations: tuple[Operation, ...]
    input_shape: tuple[int, ...]
    outputs: tuple[int, ...]

    def used(self) -> set[int]:
        """Indices of the operations that an output depends on."""
        found: set[int] = set()
        waiting = [index for index in self.outputs if index >= 0]
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                waiting += [source for source in self.operations[index].inputs if source >= 0]
        return found

    def convolutions(self) -> dict[str, list[Operation]]:
        """Module name -> its convolutions, in executed order."""
        found: dict[str, list[Operation]] = {}
        for op in self.operations:
            if op.name == "convolution":
                found.setdefault(op.module, []).append(op)
        return found

    def other_macs(self) -> int:
        """Multiply-adds outside convolutions: linear layers and attention."""
        return sum(op.macs for op in self.operations if op.name != "convolution")

    def readers(self) -> dict[int, list[Operation]]:
        """Operation index -> the operations that read its result."""
        readers: dict[int, list[Operation]] = {}
        for op in self.operations:
            for source in set(op.inputs):
                readers.setdefault(source, []).append(op)
        return readers


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.producers: dict[int, int] = {}
        self.alive: list[Any] = []  # ids are only unique among living objects
        self.stack: list[str] = [""]

    def produce(self, tensor: Tensor, index: int) -> None:
        self.producers[id(tensor)] = index
        self.alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Only what a convolution or an activation reads counts; parameters have no producer.
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        inputs = tuple(self.producers[id(t)] for t in tensors if id(t) in self.producers)
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        name = func.overloadpacket.__name__.rstrip("_")
        if not inputs or not outputs:
            return result
        index = len(self.operations)
        transposed = name == "convolution" and bool(args[6])
        macs = _multiply_adds(name, tensors, outputs[0], transposed)
        self.operations.append(
            Operation(index, name, self.stack[-1], inputs, tuple(outputs[0].shape), macs, transposed)
        )
        for output in outputs:
            self.produce(output, index)
        if func.overloadpacket.__name__.endswith("_"):
            self.produce(tensors[0], index)
        return result


def _multiply_adds(name: str, tensors: list[Tensor], output: Tensor, transposed: bool) -> int:
    if name == "convolution":
        image = tensors[0] if transposed else output
        return math.prod(image.shape) * math.prod(tensors[1].shape[1:])
    if name in _PRODUCTS:
        return math.prod(output.shape) * tensors[_PRODUCTS[name]].shape[-1]
    if name.startswith("_scaled_dot_product"):  # query and key, then weights and value
        query, key, value = tensors[:3]
        return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return 0


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keeps the name of the innermost running module on top of `stack`."""

    def entering(name: str) -> Any:
        return lambda module, args: stack.append(name)

    def leaving(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    handles = []
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(entering(name), prepend=True))
            handles.append(module.register_forward_hook(leaving))
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace(model: nn.Module, example_input: Tensor) -> Trace:
    """Runs `model` in evaluation mode on a fake copy of `example_input` and records what happens.

    Args:
        model: any module that takes one tensor; its mode and state are left as they were.
        example_input: `[N, C, H, W]`, any device; only shape and dtype are used.

    Raises:
        TypeError: `example_input` is not a tensor.
        ValueError: the model cannot run on it; the message carries the model's own error.
    """
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"example_input is a {type(example_input).__name__}; give one tensor [N, C, H, W], "
            "for instance torch.randn(1, 3, 256, 256)."
        )
    modes = {module: module.training for module in model.modules()}
    recorder = _Recorder()
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else example_input.device
    try:
        model.eval()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            fake = torch.empty(example_input.shape, dtype=example_input.dtype, device=device)
            recorder.produce(fake, -1)
            eager = torch.compiler.set_stance("force_eager")  # for parts that are compiled already
            with _module_names(model, recorder.stack), recorder, eager:
                result = model(fake)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the model does not run on an example input of shape {tuple(example_input.shape)}, "
            f"dtype {example_input.dtype}: {first_line} Give an input that model(example_input) accepts."
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    found = [recorder.producers.get(id(leaf)) for leaf in tree_leaves(result)]
    outputs = tuple(index for index in found if index is not None)
    # An object of the model's own may hide tensors: then everything counts as returned.
    return Trace(
        tuple(recorder.operations),
        tuple(example_input.shape),
        outputs or tuple(range(len(recorder.operations))),
    )
