import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_mbu.deploy.thresholds import float_thresholds, integer_thresholds


def batch_norm(channels: int, seed: int) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(50 * torch.randn(channels, generator=generator))
        norm.running_var.copy_(
            torch.rand(channels, generator=generator)
            * 10 ** torch.randint(-6, 6, (channels,), generator=generator)
        )
        norm.weight[0], norm.weight[1], norm.bias[1] = 0, 0, 0
        norm.running_mean[2], norm.bias[2] = 7, 0  # crosses zero exactly at the integer 7
    return norm


@given(st.integers(0, 10_000), st.floats(-2, 2, width=32))
def test_every_integer_gets_the_bit_that_the_batch_norm_gives_it(seed, level):
    norm, limit, channels = batch_norm(9, seed), 600, 9

    def bit(d):
        with torch.no_grad():
            return norm(d.float().view(1, -1, 1, 1).repeat(2, 1, 4, 8))[0, :, 0, 0] >= level

    tau, flip = integer_thresholds(bit, limit, channels)
    d = torch.arange(-limit, limit + 1)
    with torch.no_grad():
        expected = norm(d.float().view(-1, 1, 1, 1).repeat(1, channels, 4, 8))[:, :, 0, 0] >= level
    assert torch.equal((d[:, None] >= tau) ^ flip, expected)


@given(st.integers(0, 10_000))
def test_every_float_gets_the_bit_that_the_batch_norm_gives_it(seed):
    norm, channels = batch_norm(9, seed), 9

    def bit(x):
        with torch.no_grad():
            return norm(x.view(1, -1, 1, 1).repeat(2, 1, 4, 8))[0, :, 0, 0] >= 0

    threshold, flip = float_thresholds(bit, channels)
    # Around the crossing, float by float, and far from it.
    near = threshold.nan_to_num(neginf=0.0)
    x = [near]
    for direction in (-torch.inf, torch.inf):
        moving = near
        for _ in range(5):
            moving = torch.nextafter(moving, torch.full_like(moving, direction))
            x.append(moving)
    x += [torch.full_like(near, v) for v in (-3e38, -1.0, 0.0, 1e-40, 1.0, 3e38)]
    for values in x:
        assert torch.equal((values >= threshold) ^ flip, bit(values))


def test_sums_beyond_float32_integers_are_refused():
    with pytest.raises(ValueError, match=r"exceeds 2\^24"):
        integer_thresholds(lambda d: d >= 0, 2**24 + 1, 1)


@pytest.mark.parametrize("limit", [1, 2**24])
def test_limits(limit):
    tau, flip = integer_thresholds(lambda d: d >= torch.tensor([-limit, 0, limit, limit + 5]), limit, 4)
    d = torch.tensor([[-limit], [0], [limit]])
    expected = torch.tensor(
        [[True, False, False, False], [True, True, False, False], [True, True, True, False]]
    )
    assert torch.equal((d >= tau) ^ flip, expected)
