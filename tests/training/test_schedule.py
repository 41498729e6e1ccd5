import itertools

import pytest

from lightning_mbu.schedule import Phases, warm_restart_cosine

BISEGUNET = Phases(50 / 180, 100 / 180)


@pytest.mark.parametrize(
    "epoch, phase",
    [
        (0, "float"),
        (49, "float"),
        (50, "incremental"),
        (149, "incremental"),
        (150, "quantized"),
        (180, "quantized"),
    ],
)
def test_phases_of_bisegunet(epoch, phase):
    assert BISEGUNET.phase(epoch / 180 + 1e-9) == phase


def test_gates_open_one_after_another_and_never_close():
    phases, count = Phases(0.2, 0.5), 5
    steps = [[phases.gate(p / 100, i, count) for i in range(count)] for p in range(101)]
    assert steps[0] == [0.0] * count and steps[19] == [0.0] * count
    assert steps[20] == [1.0, 0, 0, 0, 0] and steps[31] == [1.0, 1.0, 0, 0, 0] and steps[70] == [1.0] * count
    assert all(
        a <= b for before, after in itertools.pairwise(steps) for a, b in zip(before, after, strict=True)
    )


def test_ramp_rises_linearly_and_ends_at_one():
    phases = Phases(0.0, 0.4, ramp=0.2)
    assert phases.gate(0.1, 0, 2) == pytest.approx(0.5)
    assert phases.gate(0.2, 1, 2) == 0.0
    assert phases.gate(0.6, 1, 2) == 1.0
    assert phases.quantized_start == pytest.approx(0.6)


def test_default_is_quantized_from_the_start():
    assert Phases().phase(0.0) == "quantized" and Phases().gate(0.0, 20, 21) == 1.0


@pytest.mark.parametrize("shares", [(-0.1, 0), (1.2, 0), (0.6, 0.5), (0.5, 0.3, 0.2)])
def test_impossible_shares(shares):
    with pytest.raises(ValueError, match="share of the run|must stay below 1"):
        Phases(*shares)


def test_learning_rate_restarts_at_each_switch():
    edges = (0.0, 50 / 180, 150 / 180)
    for edge in edges:
        assert warm_restart_cosine(edge + 1e-9, BISEGUNET) == pytest.approx(1.0)
    for edge in (*edges[1:], 1.0):
        assert warm_restart_cosine(edge - 1e-9, BISEGUNET, final=0.1) == pytest.approx(0.1)
    assert warm_restart_cosine(0.0, Phases()) == 1.0 and warm_restart_cosine(1.0, Phases()) == pytest.approx(
        0
    )
    with pytest.raises(ValueError, match="at least 0"):
        warm_restart_cosine(-0.1, Phases())
