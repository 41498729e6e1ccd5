"""Shapley values: what masking each block gains on average (MBU-Net, figure 3c). Pure numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

Subset = frozenset[str]


def subset_name(subset: Iterable[str], players: Sequence[str]) -> str:
    """A subset as one bit per player, in their order: `"010"`."""
    return "".join("1" if player in set(subset) else "0" for player in players)


def named_subset(name: str, players: Sequence[str]) -> Subset:
    """Reads `subset_name` back."""
    return frozenset(player for player, bit in zip(players, name, strict=True) if bit == "1")


def chains(players: Sequence[str], permutations: int, depth: int, random_: random.Random) -> list[Subset]:
    """The subsets along random orders in which players join, up to `depth` of them, without repeats.

    Neighbours on a chain differ by one player, so each pair gives a marginal gain. A depth below five is the
    paper's figure 3c; further in, each block's share of the whole gain is too small to see.

    Args:
        permutations: orders to draw.
        depth: players that join in each.
    """
    found: dict[Subset, None] = {frozenset(): None}
    for _ in range(permutations):
        order = list(players)
        random_.shuffle(order)
        for count in range(1, min(depth, len(order)) + 1):
            found.setdefault(frozenset(order[:count]))
    return list(found)


def shapley_values(values: Mapping[Subset, float], players: Sequence[str]) -> dict[str, float]:
    """Mean marginal gain of each player, exact where all 2^n subsets are known.

        phi(i) = mean over sizes s of the mean over S of size s, i not in S, of v(S + i) - v(S)

    From a sample, each mean is taken over the pairs that are there; a player without any is left out.

    Args:
        values: subset -> value.
        players: all of them.
    """
    result = {}
    for player in players:
        by_size: dict[int, list[float]] = {}
        for subset, value in values.items():
            joined = subset | {player}
            if player not in subset and joined in values:
                by_size.setdefault(len(subset), []).append(values[joined] - value)
        if by_size:
            means = [sum(gains) / len(gains) for gains in by_size.values()]
            result[player] = sum(means) / len(means)
    return result
