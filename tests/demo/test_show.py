"""What the demo says of its rivals."""

from types import SimpleNamespace

import pytest

from lightning_mbu.demo.show import honest_rival
from lightning_mbu.demo_settings import DemoSettings
from lightning_mbu.timing import Timing


def net(title, kind, dice):
    return SimpleNamespace(title=title, scores={name: {"dice": dice} for name in (kind, f"{kind} compiled")})


def outcome(**times):
    """Times of the compiled networks by title, ms; eager ones take ten times as long."""
    floats = [net("wide", "float", 0.9), net("half", "float", 0.85), net("quarter", "float", 0.7)]
    networks = [net("shortcuts", "packed", 0.8), net("plain", "packed", 0.6)]
    timings = {}
    for network in (*floats, *networks):
        for k, name in enumerate(network.scores):
            timings[f"{network.title}, {name}"] = Timing((times[network.title] * (1 if k else 10),))
    return SimpleNamespace(floats=floats, networks=networks, timings=timings)


@pytest.mark.parametrize(("half", "quarter", "words"), [
    (3.0, 1.0, "The best float network that is as fast, half: Dice 0.850 in 3.00 ms."),
    (5.0, 1.0, "The best float network that is as fast, quarter: Dice 0.700 in 1.00 ms."),
    (8.0, 5.0, "No float network here is as fast; the narrowest takes 5.00 ms."),
])  # fmt: skip
def test_the_rival_is_the_best_of_those_as_fast(half, quarter, words):
    found = honest_rival(outcome(wide=20.0, half=half, quarter=quarter, shortcuts=4.0, plain=0.5))
    assert found == f"shortcuts, packed: Dice 0.800 in 4.00 ms. {words}"


def test_rivals_have_half_and_a_quarter_of_the_channels():
    assert DemoSettings(width=16).rivals == (8, 4) and DemoSettings(width=8).rivals == (4, 2)
