"""What is left of an activation that binarizers have taken over, for all of its calls or for some.

A residual block calls one ReLU twice: behind its first batch norm, where only a binarizer reads it, and behind the
sum, where the shortcut does too. Which call is which is told by what ran before: the batch norm silences the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

_SILENCES = "mbu_silences"  # the activation that a module silences, in a tuple: it is another module's child


class AbsorbedActivation(nn.Identity):
    """Stands where an activation stood that the binarizers behind it have taken over."""

    def __init__(self, activation: str):
        super().__init__()
        self.activation = activation

    def extra_repr(self) -> str:
        return self.activation


class PartlyAbsorbedActivation(nn.Module):
    """An activation that lets its input through where it has been silenced, once, and acts otherwise."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.activation = activation
        self.silent = False

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same shape."""
        if self.silent:
            self.silent = False
            return x
        return self.activation(x)


def _silence(module: nn.Module, args: Any, output: Any) -> None:
    # A function of the module alone, so that a copy of the model silences its own activation.
    getattr(module, _SILENCES)[0].silent = True


def absorb_calls(model: nn.Module, silenced: Iterable[tuple[str, str]]) -> None:
    """Takes activations out of single calls, in place; doing it twice changes nothing more.

    Args:
        model: not compiled, or the module inside.
        silenced: activation and the module whose output it shall let through (`Plan.silenced`).
    """
    for name, before in silenced:
        activation = model.get_submodule(name)
        if not isinstance(activation, PartlyAbsorbedActivation):
            part = PartlyAbsorbedActivation(activation)
            for alias, module in list(model.named_modules(remove_duplicate=False)):
                if module is activation:
                    owner, _, attribute = alias.rpartition(".")
                    setattr(model.get_submodule(owner), attribute, part)
            activation = part
        producer = model.get_submodule(before)
        if getattr(producer, _SILENCES, None) is None:
            setattr(producer, _SILENCES, (activation,))
            producer.register_forward_hook(_silence)
