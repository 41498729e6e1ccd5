"""Batch norms behind transposed convolutions, folded before torch.compile can fold them wrongly.

In torch 2.14 the freezing passes of Inductor multiply a batch norm's scale into the first dimension of the
weight. That is the output channels of an ordinary convolution, but the input channels of a transposed one: with
as many of one as of the other, as in a U-Net's upsampling, the compiled network silently computes something
else.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_transposed(model: nn.Module, example_input: Tensor) -> nn.Module:
    """A copy of `model` in evaluation mode, without the batch norms that read a transposed convolution's output.

    Args:
        model: computes the same as the copy, up to rounding, where nothing else reads that output.
        example_input: a tensor that the model accepts; only its shape, dtype and device are used, to see who
            follows whom.
    """
    folded = copy.deepcopy(model).eval()
    names = {module: name for name, module in folded.named_modules()}
    producer: dict[int, nn.ConvTranspose2d] = {}
    kept: list[Tensor] = []  # alive until the end, so that no two tensors share an id
    pairs: list[tuple[nn.ConvTranspose2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            producer[id(output)] = module
            kept.append(output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in producer:
            pairs.append((producer[id(inputs[0])], module))

    wanted = (nn.ConvTranspose2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(after) for m in folded.modules() if isinstance(m, wanted)]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        folded(fake.from_tensor(example_input))
    for hook in hooks:
        hook.remove()
    for convolution, norm in pairs:
        _replace(folded, names[convolution], fuse_conv_bn_eval(convolution, norm, transpose=True))
        _replace(folded, names[norm], nn.Identity())
    return folded


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)
