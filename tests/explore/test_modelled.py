"""Time on processors that are not here: multiply-adds through what their vector units do."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_mbu.bench.child import Job
from lightning_mbu.bench.models import network_of
from lightning_mbu.explore.modelled import PROCESSORS, SHARE, Processor, modelled_ms

# A multiply-add a nanosecond at full use, whatever the precision.
ONE = Processor("one", 1.0, 1, {"float": 1, "packed": 1})


def job(width: int, planes: int = 1, model: str = "mbunet") -> Job:
    return Job("compare", model, {"width": width, "classes": 2}, size="32x48", planes=planes)


def macs(width: int, model: str = "mbunet") -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network_of(model, job(width).arguments).eval()(torch.zeros(1, 3, 32, 48))
    return counter.get_total_flops() // 2


def test_clock_units_and_instructions_divide_the_time() -> None:
    fast = Processor("fast", 2.0, 4, {"float": 8})
    assert fast.ms("float", 64e6 * SHARE) == pytest.approx(1.0)
    assert ONE.ms("float", 1e6 * SHARE) == pytest.approx(1.0)


@pytest.mark.parametrize("model", ["mbunet", "mbunet-shortcuts"])
def test_all_multiply_adds_of_the_network_count(model: str) -> None:
    found = modelled_ms(job(32, model=model), "float", ONE)
    assert found == pytest.approx(macs(32, model) / SHARE / 1e6)


def test_one_bit_layers_take_whole_words_once_per_threshold() -> None:
    float_layers = 32 * 48 * 32 * (3 * 9 + 2)  # stem and head
    once, twice = (modelled_ms(job(32, planes), "packed", ONE) for planes in (1, 2))
    assert once == pytest.approx(macs(32) / SHARE / 1e6)  # 32 channels fill their words
    assert twice == pytest.approx((2 * macs(32) - float_layers) / SHARE / 1e6)
    few = modelled_ms(job(16), "packed", ONE)
    assert few is not None and few > 1.2 * macs(16) / SHARE / 1e6  # 16 channels take a word as well


def test_precisions_without_instructions() -> None:
    assert modelled_ms(job(16), "bfloat16", PROCESSORS[0]) is None
    times = [modelled_ms(job(64), precision, PROCESSORS[1]) for precision in ("float", "bfloat16", "packed")]
    assert times[0] == pytest.approx(4 * (times[1] or 0)) and (times[2] or 0) < (times[1] or 0)


def test_what_the_docs_say() -> None:
    """docs/results/accuracy.md: full-width `mbunet` at 256x256; 88 and 31 ms were measured on AVX-512."""
    full = Job("compare", "mbunet")
    avx512 = Processor("AVX-512 VNNI, VPOPCNTDQ", 3.0, 2, {"float": 16, "int8": 64, "packed": 171})
    times = [[modelled_ms(full, kind, p) or 0 for kind in ("int8", "packed")] for p in (avx512, *PROCESSORS)]
    assert [round(ms) for ms in times[0]] == [119, 46]
    assert [round(int8 / packed, 1) for int8, packed in times[1:]] == [1.8, 1.2]
