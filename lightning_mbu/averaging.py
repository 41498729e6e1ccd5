"""What is done to a network's parameters around the end of training: averages, batch norms, optimizer groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .prepare import quantized_layers
from .residual import BridgedBatchNorm2d

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class LatentAverage:
    """Running mean of all parameters (stochastic weight averaging, arXiv:1803.05407).

    Latent weights are averaged and quantized afterwards. The mean of quantized weights would be no weight that a
    one-bit layer can have.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the parameters as they are now."""
        self.count += 1
        for name, parameter in network.named_parameters():
            if name in self.mean:
                self.mean[name].lerp_(parameter.detach().to(self.mean[name]), 1 / self.count)
            else:
                self.mean[name] = parameter.detach().clone()

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Gives the network the mean. Its batch norms have to be measured again."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self.mean[name])

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.mean = {name: value.clone() for name, value in state["mean"].items()}


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Measures every batch norm's mean and variance anew over `inputs`, each batch counting the same.

    The last switch and the last steps change what batch norms see faster than their running averages follow.

    Args:
        network: left in the mode that it is in.
        inputs: batches that the network accepts; none leaves everything as it is.
    """
    inputs = list(inputs)
    norms = [m for m in network.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not inputs or not norms:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            norm.train()
        for batch in inputs:
            network(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def clip_latent_weights(network: nn.Module, limit: float) -> None:
    """Sets latent weights of layers that are becoming one-bit back into [-limit, limit] (arXiv:1511.00363, 2.4)."""
    for _, layer in quantized_layers(network):
        if layer.gate > 0:
            for weight in (layer.weight, layer.plane_weight):
                if weight is not None:
                    weight.clamp_(-limit, limit)


def parameter_groups(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    weight_decay: float = 0.0,
    float_lr: float = 1.0,
    extras_lr: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: latent weights, what layers learn beside them, everything else. The defaults, with Adam
    and one cosine, are what is recommended.

    Weight decay shrinks latent weights towards 0 without changing a sign: it only raises their effective learning
    rate (arXiv:1906.02107, arXiv:2106.11309). So it acts on the float layers alone. Call this in
    `configure_optimizers`, after `MBUQuantize` has prepared the model.

    Args:
        model: prepared or float.
        lr: peak learning rate of latent weights; the default is for networks with shortcuts, a pure chain took 5e-3.
        weight_decay: of the float layers' weights; their biases and batch norms have none.
        float_lr: factor on `lr` for the float layers and batch norms of a prepared model; a float one trains at `lr`.
        extras_lr: factor on `lr` for scales, thresholds, mask factors and shifted activations, which are few and each
            of which moves a whole channel (LSQ scales their gradients for that, arXiv:1902.08153).

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`, `"latent"`, `"extras"`, `"float"` or `"float, no decay"`;
        empty ones are left out.

    Raises:
        ValueError: a rate or a factor that is not above 0, or a weight decay below 0.
    """
    if min(lr, float_lr, extras_lr) <= 0 or weight_decay < 0:
        raise ValueError(
            f"lr={lr}, float_lr={float_lr} and extras_lr={extras_lr} must be above 0, weight_decay={weight_decay} at "
            "least 0. Set requires_grad=False to keep parameters as they are."
        )
    latent, extras = set(), set()
    for _, layer in quantized_layers(model):
        latent |= {id(p) for p in (layer.weight, layer.plane_weight) if p is not None}
        extras |= {id(p) for p in (layer.scale, layer.threshold, *layer.weight_quantizer.parameters())}
    for module in model.modules():
        if isinstance(module, BridgedBatchNorm2d) and module.shift is not None:
            extras |= {id(p) for p in module.shift.parameters()}
    groups: dict[str, list[Tensor]] = {"latent": [], "extras": [], "float": [], "float, no decay": []}
    for parameter in model.parameters():
        plain = "float" if parameter.dim() > 1 else "float, no decay"
        kind = "latent" if id(parameter) in latent else "extras" if id(parameter) in extras else plain
        groups[kind].append(parameter)
    factors = {"latent": 1.0, "extras": extras_lr}
    float_lr = float_lr if latent else 1.0
    return [
        {
            "params": parameters,
            "lr": lr * factors.get(name, float_lr),
            "weight_decay": weight_decay if name == "float" else 0.0,
            "name": name,
        }
        for name, parameters in groups.items()
        if parameters
    ]
