"""Zeros in whole blocks: which are absent, how many in each layer, from when on; against a few lines of plain torch."""

from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F

from lightning_mbu import MBUQuantize
from lightning_mbu.absent_blocks import BlockMaskedWeight, density_at, pull_blocks_together, share_out
from lightning_mbu.recipe import Recipe


@pytest.mark.parametrize("output_axis", [0, 1])
def test_block_mask_keeps_the_strongest_blocks(output_axis):
    weight = torch.randn(8, 12, 3, 3)
    oriented = weight.transpose(0, 1) if output_axis else weight
    blocks = {
        (tap, o, i): oriented[4 * o : 4 * o + 4, 8 * i : 8 * i + 8, tap // 3, tap % 3].abs().mean()
        for tap in range(9) for o in range(-(-oriented.shape[0] // 4)) for i in range(-(-oriented.shape[1] // 8))
    }  # fmt: skip
    kept = sorted(blocks, key=blocks.__getitem__, reverse=True)[: round(0.25 * len(blocks))]
    expected = torch.zeros_like(oriented)
    for tap, o, i in kept:
        part = (slice(4 * o, 4 * o + 4), slice(8 * i, 8 * i + 8), tap // 3, tap % 3)
        expected[part] = oriented[part].sign()
    found = BlockMaskedWeight((4, 8), 0.25, output_axis)(weight)
    assert torch.equal(found, expected.transpose(0, 1) if output_axis else expected)


def quantizers(*densities):
    torch.manual_seed(1)
    weights = [torch.randn(8 * n, 16, 3, 3) * torch.rand(8 * n, 1, 3, 3) * n for n in (1, 2, 3)]
    return [BlockMaskedWeight((8, 8), 0.5) for _ in weights], weights


def test_equal_shares():
    found, weights = quantizers()
    share_out(found, weights, [10, 20, 30], 0.3, "equal")
    assert [round(float(q.share), 6) for q in found] == [0.3] * 3
    assert [float((q(w) != 0).float().mean()) for q, w in zip(found, weights, strict=True)] == pytest.approx(
        [round(0.3 * n) / n for n in (18, 36, 54)]
    )


@pytest.mark.parametrize("density", [0.75, 0.5, 0.2])
def test_ranked_shares_keep_the_strongest_blocks_within_the_budget(density):
    found, weights = quantizers()
    macs = [1000, 300, 100]
    share_out(found, weights, macs, density, "ranked")
    blocks = []
    for layer, (weight, cost) in enumerate(zip(weights, macs, strict=True)):
        means = F.avg_pool2d(weight.abs().permute(2, 3, 0, 1).flatten(0, 1)[:, None], 8).flatten()
        blocks += [(float(m / means.mean()), layer, cost / len(means)) for m in means]
    left, kept = density * sum(macs), [0, 0, 0]
    for _, layer, cost in sorted(blocks, reverse=True):
        if (left := left - cost) < 0:
            break
        kept[layer] += 1
    for layer, (quantizer, weight) in enumerate(zip(found, weights, strict=True)):
        present = round(float((quantizer(weight) != 0).float().sum() / 64))
        least = round(density / 4 * 18 * (layer + 1))
        assert present == max(kept[layer], least, 1)
    assert len({round(float(q.share), 4) for q in found}) == 3


def test_density_falls_as_a_cubic():
    assert [density_at(p, 0.2, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1, 0.3, 0.2, 0.2])
    assert density_at(0.0, 0.2, 0.0) == 0.2


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (12, 20, 1, 1)])
def test_group_lasso_is_the_gradient_of_its_norms(shape):
    weight = torch.randn(shape, requires_grad=True)
    penalty = torch.zeros(())
    for o in range(0, shape[0], 8):
        for i in range(0, shape[1], 8):
            for y in range(shape[2]):
                for x in range(shape[3]):
                    block = weight[o : o + 8, i : i + 8, y, x]
                    penalty = penalty + block.numel() ** 0.5 * block.norm()
    (0.1 * penalty).backward()
    found = pull_blocks_together(BlockMaskedWeight((8, 8), 0.5), weight.detach(), 0.1)
    assert torch.allclose(found, weight.grad, atol=1e-6)


def test_training_thins_blocks_out(tiny, trainer):
    options = {"mask_blocks": (8, 8), "block_density": 0.25, "block_shares": "ranked", "block_ramp": 0.5}
    quantizer = MBUQuantize("plain", masked="all", block_regularizer=1e-3, **options)
    present = []

    class Look(Callback):
        """Share of the multiply-adds whose weights are there."""

        def on_train_batch_end(self, *_):
            layers = quantizer.plan.quantized
            zeros = [
                float((quantizer._layers[x.name].quantized_weight() == 0).float().mean()) for x in layers
            ]
            macs = [x.macs for x in layers]
            present.append(1 - sum(z * m for z, m in zip(zeros, macs, strict=True)) / sum(macs))

    trainer(quantizer, Look()).fit(tiny)
    assert present[0] == 1 and all(after <= before + 0.02 for before, after in pairwise(present))
    assert present[8:] == pytest.approx([0.25] * 8, abs=0.05)


@pytest.mark.parametrize("options, words", [
    ({"block_shares": "half"}, "block_shares='half'"), ({"mask_blocks": (8, 8), "block_ramp": 1.0}, "block_ramp=1.0"),
    ({"block_ramp": 0.5}, "say how large they are"), ({"block_regularizer": -1.0}, "at least 0"),
])  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Recipe(**options)
