"""Batch norms at the ends of float arithmetic, sums exactly at a threshold, the longest sums: packed equals trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mbu_ops.functional as F
from lightning_mbu import convert, make_plan, prepare, verify
from lightning_mbu.deploy.thresholds import integer_thresholds
from mbu_ops.backends import cpu_kernels, use_cpu_kernel

TINY, SMALLEST, LARGE = 1e-38, 1e-45, 1e30
SCALES = [0.0, -0.0, 1.0, -1.0, TINY, -TINY, SMALLEST, -SMALLEST, 1e-20, LARGE, -LARGE]
VARIANCES = [0.0, SMALLEST, TINY, 1e-12, 1e-5, 1.0, 1e12, 1e38]
OFFSETS = [0.0, -0.0, 1.0, -1.0, TINY, -SMALLEST, 1e10, -1e10]
LONGEST = 2**24  # terms of a sum; float32 holds every integer up to there


class Chain(nn.Module):
    """Float stem, three one-bit layers (one whose result is needed as float), head."""

    def __init__(self, channels: int):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.first, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.second, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).clamp(-1e6, 1e6))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.first(self.norm(self.stem(x))))
        return self.norm2(self.second(x))


def extreme(seed: int) -> Chain:
    """Every channel of its batch norms another corner; means are values that the sums take."""
    torch.manual_seed(seed)
    model = Chain(48)
    for norm in (model.norm1, model.norm2):
        for values, corners in ((norm.weight, SCALES), (norm.running_var, VARIANCES), (norm.bias, OFFSETS)):
            picked = torch.tensor(corners)[torch.randint(len(corners), (48,))]
            values.data.copy_(picked)
        norm.running_mean.copy_(torch.randint(-6, 7, (48,)).float() * 4)
    prepare(model.eval(), make_plan(model, torch.empty(1, 3, 16, 16)))
    return model


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_batch_norms_at_the_ends_of_float32(seed: int) -> None:
    model = extreme(seed)
    x = torch.randn(2, 3, 16, 16)
    packed = convert(model, x)
    found = verify(model, packed, x)
    assert found.mismatches == 0
    expected, logits = model(x), packed(x)
    assert logits.isfinite().all() and torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "weight, variance, mean", [(3e38, 0.0, 0.0), (-3e38, 1.0, 24.0), (1e37, 1e-12, -24.0)]
)
def test_a_batch_norm_that_multiplies_by_infinity_is_refused_by_name(weight, variance, mean) -> None:
    model = extreme(0)
    norm = model.norm2
    norm.weight.data[7], norm.running_var[7], norm.running_mean[7] = weight, variance, mean
    with pytest.raises(ValueError, match=r"'norm2' leaves the range of float32 in channels \[7\]"):
        convert(model, torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize("kind", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("where", ["weight", "running_var"])
def test_a_batch_norm_that_is_not_finite_is_refused_by_name(kind: str, where: str) -> None:
    model = extreme(0)
    getattr(model.norm1, where).data[5] = float(kind)
    with pytest.raises(ValueError, match=f"norm1.*{where}"):
        convert(model, torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("limit", [LONGEST - 1, LONGEST])
@pytest.mark.parametrize("threshold", [0.0, 0.5, -0.5, 1.0, 2.0**24, -(2.0**24), 2.0**24 - 1])
def test_thresholds_of_the_longest_sums(sign: float, limit: int, threshold: float) -> None:
    tau, flip = integer_thresholds(lambda d: sign * d.float() >= threshold, limit, 1)
    near = torch.tensor([0, 1, 2, limit - 1, limit])
    for d in torch.cat([near, -near, torch.tensor([sign * threshold]).long() + torch.arange(-1, 2)]).tolist():
        if abs(d) <= limit:
            assert bool((d >= tau) ^ flip) == (sign * float(d) >= threshold)


@pytest.mark.parametrize("kernel", [kernel.name for kernel in cpu_kernels() if kernel.available])
def test_the_longest_sums(kernel: str) -> None:
    """Partial sums in narrow integers must be emptied in time, whatever the operands."""
    words, mixed = LONGEST // 32, 0x55555555
    signs = torch.tensor([-1, 0, mixed], dtype=torch.int32).view(3, 1, 1, 1).expand(3, 1, 1, words)
    planes = torch.stack([signs, torch.full_like(signs, -1)])
    bits = signs.reshape(3, words).contiguous()
    with use_cpu_kernel(kernel):
        sums = F.gemm(bits, F.tile_weight(planes), 3)
    most = float(LONGEST)
    assert sums.tolist() == [[most, -most, 0.0], [-most, most, 0.0], [0.0, 0.0, most]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_refused_with_the_way_out(dtype: torch.dtype) -> None:
    packed = convert(extreme(0), torch.randn(1, 3, 16, 16))
    with pytest.raises(TypeError, match=r"takes a float32 tensor. Use x.float\(\)"):
        packed(torch.zeros(1, 3, 16, 16, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_signs_at_the_ends_of_every_float_type(dtype: torch.dtype) -> None:
    """What lies at the threshold, on either side of it, or is no number."""
    limits = torch.finfo(dtype)
    ends = [0.0, -0.0, limits.smallest_normal, limits.tiny / 2, limits.max, float("inf")]
    values = torch.tensor([*ends, *(-v for v in ends), float("nan"), 1.0], dtype=dtype)
    x = values.repeat(5)[:67].view(1, 67, 1, 1).repeat(1, 1, 3, 5)
    for threshold in (0.0, limits.tiny, 1.0):
        level = torch.full((67,), threshold)
        for kernel in (kernel.name for kernel in cpu_kernels() if kernel.available):
            for layout in (torch.contiguous_format, torch.channels_last):
                with use_cpu_kernel(kernel):
                    found = F.unpack(F.pack(x.contiguous(memory_format=layout), level), 67) > 0
                assert torch.equal(found, x.float() >= threshold), (kernel, threshold, layout)


@torch.no_grad()
def test_subnormal_and_huge_images() -> None:
    model = extreme(1)
    packed = convert(model, torch.randn(1, 3, 16, 16))
    for scale in (1e-40, 1e-30, 1e30):
        assert verify(model, packed, torch.randn(1, 3, 16, 16) * scale).mismatches == 0
