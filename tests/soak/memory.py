"""Tensors in places where a mistake shows: at odd addresses, and against pages that nobody may touch."""

from __future__ import annotations

import ctypes
import mmap

import torch
from hypothesis import strategies as st
from torch import Tensor

_LIBC = ctypes.CDLL(None, use_errno=True)

# Elements that lie in front of a tensor in its storage, or the end that meets a forbidden page.
PLACES = st.sampled_from(["as it is", 1, 3, 13, "before a page", "behind a page"])


def _forbid(address: int, length: int) -> None:
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), 0):  # PROT_NONE
        raise OSError(ctypes.get_errno(), "mprotect failed")


def _guarded(count: int, dtype: torch.dtype, at_end: bool) -> Tensor:
    """`count` elements between two forbidden pages, directly before or behind one."""
    page, size = mmap.PAGESIZE, count * dtype.itemsize
    inside = -(-size // page) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    handle = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(handle)
    del handle
    _forbid(address, page)
    _forbid(address + page + inside, page)
    start = page + (inside - size if at_end else 0)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start)


def put(tensor: Tensor, place: str | int) -> Tensor:
    """A copy of `tensor` with the same strides at that place; memory between its elements is random."""
    if place == "as it is" or tensor.numel() == 0:
        return tensor
    reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    if isinstance(place, int):
        row = torch.empty(place + reach, dtype=tensor.dtype)[place:]
    else:
        row = _guarded(reach, tensor.dtype, place == "before a page")
    row.view(torch.uint8).random_(0, 256)
    view = row.as_strided(tensor.shape, tensor.stride(), row.storage_offset())
    view.copy_(tensor)
    return view
