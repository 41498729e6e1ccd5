"""What `mbu doctor` tries on a GPU, on the processor."""

from __future__ import annotations

import pytest
import torch

from mbu_ops import backends, doctor, fallback


def test_every_operation_has_an_example() -> None:
    assert set(doctor.examples()) == set(fallback.FALLBACKS)
    for name, arguments in doctor.examples().items():
        getattr(torch.ops.mbu, name)(*arguments)


def test_the_first_reason_of_an_operation_is_kept_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    says = iter(["a hole (in the card)", "another"])
    monkeypatch.setattr(backends, "fallback_reason", lambda: next(says))
    monkeypatch.setattr(fallback, "reasons", {})
    monkeypatch.setattr(fallback, "_warned", set())
    bits = torch.zeros(1, 2, 2, 1, dtype=torch.int32)
    with pytest.warns(RuntimeWarning, match=r"The first is unpack: a hole \(in the card\)\. `mbu doctor`"):
        assert torch.equal(torch.ops.mbu_fallback.unpack(bits, 3), torch.full((1, 3, 2, 2), -1.0))
    torch.ops.mbu_fallback.unpack(bits, 3)
    assert fallback.reasons == {("unpack", "cpu"): "a hole (in the card)"}
