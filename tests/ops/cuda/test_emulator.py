"""The emulator itself: it names what a faulty kernel does wrong, in every order of events."""

from __future__ import annotations

import ctypes
import itertools
import re

import pytest
import torch
from emulator import build

FAULTS = {
    "reads_before_the_wait": r"reads shared byte \d+ while a copy to it is in flight",
    "waits_for_an_older_group": "while a copy to it is in flight",
    "forgets_to_commit": "while a copy to it is in flight",
    "leaves_a_copy": "leaves while its copies are in flight",
    "reads_without_barrier": "which nobody has written|with no barrier in between",
    "overwrites_what_others_read": r"(writes .*, read|reads .*, written) by thread \d+ with no barrier in between",
    "copies_over_what_others_read": r"(starts a copy to .*, read|reads .*, written) by thread \d+ with no barrier",
    "writes_what_others_wrote": r"writes shared byte \d+, written by thread \d+ with no barrier in between",
    "reads_nothing": "which nobody has written",
    "misaligned": "in a step of 16 bytes, which is misaligned",
    "beyond_shared_memory": "beyond the 2048 bytes of the block",
    "half_a_warp": "waits in vote.ballot for lanes that never come",
    "different_operations": "meets others of its warp in",
    "copies_from_beyond": "reaches outside of global memory",
    "reads_beyond": "reaches outside of global memory",
}
ORDERS = list(itertools.product([0, 1], [0, 1]))


@pytest.fixture(scope="module")
def faulty(host_objects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    return build.link(
        [*host_objects, *build.compile_all([build.EMULATOR / "faulty.cu"], folder)], folder / "faulty.so"
    )


def run(library, kernel: str, late: int, backwards: int) -> tuple[str, torch.Tensor, torch.Tensor]:
    words = torch.arange(512, dtype=torch.int32)
    out = torch.zeros(128, dtype=torch.int32)
    call = library.emulate_faulty
    call.restype, call.argtypes = ctypes.c_char_p, [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    function = ctypes.cast(getattr(library, kernel), ctypes.c_void_p)
    return call(function, words.data_ptr(), out.data_ptr(), late, backwards).decode(), words, out


@pytest.mark.parametrize("late, backwards", ORDERS)
def test_a_right_kernel(faulty, late, backwards):
    error, words, out = run(faulty, "right", late, backwards)
    assert error == ""
    assert torch.equal(out, words.view(128, 4)[torch.arange(128) ^ 64, 3])


@pytest.mark.parametrize("late, backwards", ORDERS)
@pytest.mark.parametrize("kernel_name", FAULTS)
def test_faults_are_named(faulty, kernel_name, late, backwards):
    error, _, _ = run(faulty, kernel_name, late, backwards)
    assert re.search(FAULTS[kernel_name], error), error
    assert re.match(r"block \(0, 0, 0\), thread \d+ ", error)
