"""The compiler of torch on demand: torchvision and timm import it only to mark functions, which takes two seconds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_UTILS = "torch._dynamo.utils"


@contextmanager
def compiler_on_demand() -> Iterator[None]:
    """Modules imported inside get a compiler that is imported once one of their functions asks for it.

    timm decorates functions with `torch.compiler.disable`; torch's own `_disable_dynamo` does the same at the first call
    instead. torchvision takes one function out of `torch._dynamo.utils`, for which a module that defers stands in.
    Whatever torch has not, or whoever has the compiler already, goes the ordinary way.
    """
    if "torch._dynamo" in sys.modules or not hasattr(torch, "_disable_dynamo"):
        yield
        return
    before, stand_in = torch.compiler.disable, _Deferred(_UTILS)

    def disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        return torch._disable_dynamo(fn, recursive)

    torch.compiler.disable, sys.modules[_UTILS] = disable, stand_in  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = before
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]


class _Deferred(ModuleType):
    """In the place of a module until something of it is called, or asked for that it has no stand-in for."""

    def is_compile_supported(self, device_type: str) -> bool:
        return self._real().is_compile_supported(device_type)

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system looks for
            raise AttributeError(name)
        return getattr(self._real(), name)
