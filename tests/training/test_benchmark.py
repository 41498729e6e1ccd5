"""Arithmetic of timings, the checks before timing, and that a run leaves everything as it was."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn
from torch._inductor import config as inductor

from lightning_mbu.benchmark import compare, time_floats
from lightning_mbu.comparison import Comparison
from lightning_mbu.timing import Timing, conditions, ratio, time_interleaved


def network(channels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())


class Wrong(nn.Module):
    """Gives another answer once it is compiled."""

    def forward(self, x):
        return x + 1 if torch.compiler.is_compiling() else x


def test_timing_statistics():
    timing = Timing((4.0, 1.0, 2.0, 3.0, 5.0))
    assert (timing.median, timing.min, timing.spread) == (3.0, 1.0, (2.0, 4.0))
    assert Timing((2.0,)).spread == (2.0, 2.0)


def test_ratio_pairs_the_rounds():
    # The third round met a busy machine: pairing keeps the ratio at 2, unpaired minima and means do not.
    assert ratio(Timing((2.0, 4.0, 40.0)), Timing((1.0, 2.0, 20.0))) == 2.0
    with pytest.raises(ValueError, match="rounds cannot be paired"):
        ratio(Timing((1.0,)), Timing((1.0, 2.0)))


def test_rounds_rotate_and_short_calls_repeat():
    order: list[str] = []
    timings = time_interleaved(
        {name: lambda name=name: order.append(name) for name in "abc"}, repeats=3, warmup=1, min_time_s=0
    )
    assert "".join(order[3:]) == "abcbcacab"
    assert all(len(timing.samples) == 3 and timing.calls == 1 for timing in timings.values())
    order.clear()
    timings = time_interleaved(
        {name: lambda name=name: order.append(name) for name in "abc"}, repeats=3, warmup=0, min_time_s=0
    )
    assert "".join(order) == "abcbcacab"
    assert all(len(timing.samples) == 3 for timing in timings.values())
    calls = time_interleaved({"short": lambda: None}, repeats=1, min_time_s=1e-3)["short"].calls
    assert calls > 10


@pytest.mark.parametrize("options", [{"repeats": 0}, {"warmup": -1}])
def test_refuses_empty_runs(options):
    with pytest.raises(ValueError, match="at least 1, 1 and 0 are needed"):
        time_interleaved({"a": lambda: None}, **options)
    with pytest.raises(ValueError, match="0 candidates"):
        time_interleaved({})


def test_rivals_are_compiled_and_timed_in_turn():
    models = {"wide": network(8).train(), "narrow": network(2)}
    times = time_floats(models, torch.randn(1, 3, 16, 16), 1, 3)
    assert set(times) == set(models) and all(len(time.samples) == 3 for time in times.values())
    assert models["wide"].training and not inductor.freezing


def test_compare_end_to_end():
    float_model, packed = network(8), network(2)
    float_model.train()
    threads = torch.get_num_threads()
    result = compare(float_model, packed, torch.randn(1, 3, 16, 16), repeats=3, bfloat16=False, min_time_s=0)
    assert not result.not_run
    assert set(result.timings) == {"float eager", "float compiled", "packed eager", "packed compiled"}
    assert set(result.formats.values()) <= {"contiguous", "channels last"}
    assert result.differences["packed compiled"] <= 1e-3
    assert result.float_bytes > result.packed_bytes
    assert torch.get_num_threads() == threads
    assert all(module.training for module in float_model.modules())
    data = json.loads(json.dumps(result.to_dict()))
    assert (
        data["speedup"] == pytest.approx(result.speedup) and data["conditions"]["input"] == "1 x 3 x 16 x 16"
    )
    output = io.StringIO()
    Console(width=200, file=output).print(result.table())
    text = output.getvalue()
    assert "packed compiled" in text and "processor" in text and "threads: 1" in text


def test_bfloat16_runs_eagerly_and_compiled(monkeypatch):
    monkeypatch.setattr("lightning_mbu.benchmark.instruction_sets", lambda: ["amx_bf16"])
    model, x = network(8), torch.randn(1, 3, 16, 16)
    result = compare(model, network(2), x, repeats=1, min_time_s=0)
    for name in ("bfloat16 eager", "bfloat16 compiled"):
        assert name in result.timings and result.formats[name] in ("autocast", "cast")
        assert 0 < result.differences[name] < 0.1  # rounded, and by no more than that
    assert result.fastest("bfloat16") in ("bfloat16 eager", "bfloat16 compiled")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    monkeypatch.setattr("lightning_mbu.benchmark.instruction_sets", lambda: ["avx512_bf16"])
    slow = compare(model, network(2), x, repeats=1, min_time_s=0)
    assert slow.fastest("bfloat16") is None
    assert "no instructions" in slow.not_run["bfloat16 eager"] and "bfloat16 compiled" in slow.not_run


@pytest.mark.parametrize(
    ("packed_ms", "words"),
    [(1.0, "runs 4.00x as fast"), (4.0, "; worth it for its size"), (8.0, "Not worth it")],
)
def test_verdict_says_when_it_is_not_worth_it(packed_ms, words):
    timings = {
        "float eager": Timing((5.0,)),
        "float compiled": Timing((4.0,)),
        "packed eager": Timing((packed_ms,)),
    }
    result = Comparison(timings, {}, {}, {}, float_bytes=3200, packed_bytes=100)
    assert (
        words in result.verdict
        and "float compiled" in result.verdict
        and "32.0x less memory" in result.verdict
    )


def test_refuses_to_time_disagreement():
    with pytest.raises(
        RuntimeError, match=r"'packed compiled, contiguous' differs .* the tolerance is 1e-03"
    ):
        compare(nn.Identity(), Wrong(), torch.ones(1, 1, 2, 2), repeats=1, bfloat16=False, min_time_s=0)


def test_says_what_could_not_run(monkeypatch):
    frozen = []

    def no_compiler(model, **_):
        def call(x):
            frozen.append(inductor.freezing)
            raise RuntimeError("\nNo working C++ compiler found\ndetails")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    x = torch.ones(1, 1, 2, 2)
    result = compare(nn.Identity(), nn.Identity(), x, repeats=1, bfloat16=False, min_time_s=0)
    assert result.not_run["packed compiled"] == "RuntimeError: No working C++ compiler found"
    assert set(result.timings) == {"float eager", "packed eager"}
    # The float network as well as it can be; the packed one as users do, in both memory formats.
    assert frozen == [True, False, False] and not inductor.freezing
    assert (result.best_rival, result.best_packed) == ("float eager", "packed eager")


def test_arguments_and_errors_in_eager_networks_are_not_hidden():
    x = torch.ones(1, 1, 2, 2)
    with pytest.raises(RuntimeError, match="expected input"):
        compare(nn.Conv2d(3, 1, 1), nn.Identity(), x, repeats=1)
    with pytest.raises(ValueError, match="threads=0"):
        compare(nn.Identity(), nn.Identity(), x, threads=0)


def test_conditions_are_text():
    facts = conditions(torch.device("cpu"), 2)
    assert facts["threads"] == "2" and facts["torch"] == torch.__version__
    assert all(isinstance(value, str) and value for value in facts.values())
