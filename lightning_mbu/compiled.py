"""Models that already went through torch.compile: what is planned, packed and compared is the module inside."""

from __future__ import annotations

from torch import nn

_INSIDE = "_orig_mod"  # the attribute, and so the part of a parameter's name, that torch.compile adds


def inside_compiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile(module)` wraps; any other module itself."""
    return getattr(model, _INSIDE, model)


def plain_name(name: str) -> str:
    """A module's name without the part that torch.compile adds (`encoder._orig_mod.conv1` -> `encoder.conv1`)."""
    return ".".join(part for part in name.split(".") if part != _INSIDE)


def without_compiled(model: nn.Module) -> nn.Module:
    """`model`, in place, without any wrapper of torch.compile; the modules themselves stay."""
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if hasattr(child, _INSIDE) and not name.endswith(_INSIDE):
                setattr(module, child_name, inside_compiled(child))
        module._compiled_call_impl = None  # set by nn.Module.compile
    return inside_compiled(model)
