"""Distillation from a float teacher, without a word in the user's training step.

A callback cannot change a loss that it does not compute. But a loss acts through its gradient at the network's
output, and gradients add up: a hook adds that of

    weight * distance(student's output, teacher's output)

where backpropagation reaches the output, as if the term stood in the loss.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .prepare import quantized_layers


def logit_distance(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy between softened predictions, times temperature^2 (arXiv:1503.02531, section 2).

    Args:
        student, teacher: logits `[N, C, H, W]`; one channel means foreground against background.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    if student.shape[1] == 1:
        loss = functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    else:
        loss = functional.cross_entropy(student, teacher.softmax(1))
    return loss * temperature**2


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of normalized attention maps, `sum_c x_c^2` (arXiv:1612.03928, Eq. 2).

    Args:
        student, teacher: `[N, C, H, W]`; channel counts may differ.
    """
    maps = [functional.normalize(x.float().square().mean(1).flatten(1), dim=1) for x in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(1).mean()


class Distillation:
    """Owns the teacher and the hooks.

    Args:
        network: the prepared student.
        weight, temperature, features: see `Recipe`.

    Raises:
        ValueError: `features` names a module that the network does not have.
    """

    def __init__(self, network: nn.Module, weight: float, temperature: float, features: tuple[str, ...] = ()):
        modules = dict(network.named_modules())
        missing = [name for name in features if name not in modules]
        if missing:
            raise ValueError(
                f"distill_features names {missing}, which this network does not have; its modules are "
                f"{', '.join(name for name in modules if name)}."
            )
        self.network, self.weight, self.temperature, self.features = network, weight, temperature, features
        self.teacher = copy.deepcopy(network).eval().requires_grad_(False)
        for _, layer in quantized_layers(self.teacher):
            layer.gate.zero_()
        self.active = False
        self.factor = 1.0  # loss scaling of mixed precision, share of an accumulated batch
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._taught: dict[str, Tensor] = {}
        self._handles = [network.register_forward_hook(self._teach)]
        for name in features:
            self._handles.append(modules[name].register_forward_hook(self._keeper(name)))
            teaching = self.teacher.get_submodule(name)
            teaching.register_forward_hook(lambda m, a, out, name=name: self._taught.update({name: out}))

    def snapshot(self) -> None:
        """Makes the network as it is now the teacher."""
        self.load(self.network.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        """Makes the network with these parameters the teacher; what only quantized layers have may be missing.

        Raises:
            ValueError: a float parameter is missing.
        """
        added = ("scale", "threshold", "plane_weight", "factor", "gamma", "beta", "zeta")
        report = self.teacher.load_state_dict(state, strict=False)
        missing = [name for name in report.missing_keys if name.rpartition(".")[2] not in added]
        if missing:
            raise ValueError(
                f"the teacher lacks {', '.join(missing[:3])} ({len(missing)} in all). "
                "Give a checkpoint of the same network, trained in float."
            )
        self.teacher.to(next(self.network.parameters()).device)
        self.active = True

    def load_file(self, path: str, prefix: str) -> None:
        """`load` from a state dict, or from a Lightning checkpoint whose network is called `prefix`."""
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = stored.get("state_dict", stored)
        if any(name.startswith(prefix + ".") for name in state):
            state = {name.removeprefix(prefix + "."): value for name, value in state.items()}
        self.load(state)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _listening(self, output: Any) -> bool:
        return self.active and isinstance(output, Tensor) and output.requires_grad and self.network.training

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if self._listening(output):
                gradient = torch.zeros_like(output)
                self._seen[name] = (output.detach(), gradient)
                output.register_hook(lambda upstream: upstream + gradient)

        return keep

    def _teach(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._listening(output):
            return
        with torch.no_grad():
            taught = self.teacher(*args)
        gradient = self._gradient(output, lambda x: logit_distance(x, taught, self.temperature))
        output.register_hook(lambda upstream: upstream + gradient)
        for name, (seen, waiting) in self._seen.items():
            waiting.copy_(
                self._gradient(seen, lambda x, name=name: attention_distance(x, self._taught[name]))
            )
        self._seen.clear()
        self._taught.clear()

    def _gradient(self, output: Tensor, distance: Any) -> Tensor:
        leaf = output.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.weight * self.factor * distance(leaf), leaf)
        return gradient
