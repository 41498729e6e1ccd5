"""count_operations: floating-point and one-bit operations and parameters of a network, as papers compare them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .layers import QuantizedConvolution

ONE_BIT_PER_FLOP = 64  # XNOR-Net, section 3.1 (arXiv:1603.05279): 64 one-bit operations in one instruction
BITS_PER_FLOAT = 32


@dataclass(frozen=True)
class Operations:
    """What a network does to one input; a multiply-add is two operations.

    Attributes:
        float_flops: floating-point operations of convolutions, linear layers and attention.
        one_bit: one-bit operations of the layers that are, or would become, one-bit.
        float_parameters, one_bit_parameters: entries of the parameters on either side.
    """

    float_flops: int
    one_bit: int
    float_parameters: int
    one_bit_parameters: int

    @property
    def flops(self) -> float:
        """Floating-point operations, 64 one-bit operations counting as one."""
        return self.float_flops + self.one_bit / ONE_BIT_PER_FLOP

    @property
    def parameters(self) -> float:
        """Float parameters, 32 one-bit ones counting as one."""
        return self.float_parameters + self.one_bit_parameters / BITS_PER_FLOAT


def count_operations(
    model: nn.Module, input_size: tuple[int, ...], one_bit: Collection[str] | None = None
) -> Operations:
    """Counts without computing: the model runs on tensors that hold nothing.

    Args:
        model: any module that takes one tensor.
        input_size: `(N, C, H, W)`.
        one_bit: names of the convolutions to count as one-bit; None takes those that are (after `prepare`).

    Raises:
        ValueError: the model does not run on an input of this size, or has no convolution of one of the names.
    """
    if one_bit is None:
        one_bit = [name for name, m in model.named_modules() if isinstance(m, QuantizedConvolution)]
    modules = dict(model.named_modules())
    unknown = [name for name in one_bit if not isinstance(modules.get(name), nn.Conv2d | nn.ConvTranspose2d)]
    if unknown:
        raise ValueError(f"one_bit names {unknown}, which are not convolutions of this model.")
    flops = _flops_by_module(model, input_size)
    # The counter calls modules by their full name, below the class of the model.
    bits = sum(flops.get(f"{type(model).__name__}.{name}", 0) for name in one_bit)
    weights = sum(_weight_entries(model, name) for name in one_bit)
    total = sum(p.numel() for p in model.parameters())
    return Operations(flops["Global"] - bits, bits, total - weights, weights)


def _flops_by_module(model: nn.Module, input_size: tuple[int, ...]) -> dict[str, int]:
    parameter = next(model.parameters(), torch.empty(0))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # As `trace` does: parameters stay real, what they meet is made fake.
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
        ):
            model(torch.empty(input_size, dtype=parameter.dtype, device=parameter.device))
    except RuntimeError as error:
        raise ValueError(f"the model does not run on an input of shape {input_size}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}


def _weight_entries(model: nn.Module, name: str) -> int:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, torch.Tensor)
    return weight.numel()
