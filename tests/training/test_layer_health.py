"""Health of one-bit layers: each number against plain torch, what is logged, what is warned of."""

import warnings

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_mbu import MBUQuantize
from lightning_mbu.layer_health import HealthWatch, input_health
from lightning_mbu.layers import quantize_layer
from lightning_mbu.training_log import curves, read_log


def layer_of(planes=1, **options):
    torch.manual_seed(0)
    layer = quantize_layer(
        nn.Conv2d(4, 6, 3, padding=1, bias=False), "masked", threshold="learned", planes=planes, **options
    )
    with torch.no_grad():
        layer.threshold.copy_(torch.linspace(-0.5, 0.5, layer.threshold.numel()).view_as(layer.threshold))
    return layer


@pytest.mark.parametrize("planes", [1, 2])
def test_input_by_hand(planes):
    layer, x = layer_of(planes), torch.randn(3, 4, 5, 7)
    x[:, 2] = 9.0
    x[:, 3] = -9.0
    found = {name: float(value) for name, value in input_health(layer, x).items()}
    distances = x.repeat(1, planes, 1, 1) - layer.threshold.detach().view(1, -1, 1, 1)
    ones = (distances >= 0).float().mean((0, 2, 3))
    assert found["constant_channels"] == 0.5
    assert found["imbalance"] == pytest.approx(float((2 * ones - 1).abs().mean()))
    assert found["saturated_inputs"] == pytest.approx(float((distances.abs() > 1).float().mean()))


def test_an_epoch_by_hand():
    layer = layer_of()
    watch = HealthWatch({"conv": layer})
    watch.look()
    layer(torch.randn(2, 4, 9, 9))
    layer(torch.full((2, 4, 9, 9), 9.0))  # not looked at
    before = layer.quantized_weight()
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.weight[1, 0, 0, 0] = -1.5
    assert watch.end_epoch() == []
    health, after = watch.latest["conv"], layer.quantized_weight()
    assert health.flip_ratio == pytest.approx(float((before != after).float().mean()))
    assert health.mask_density == pytest.approx(float((after != 0).float().mean()))
    assert (health.dead_channels, health.saturated_weights) == pytest.approx((1 / 6, 1 / 216))
    assert health.constant_channels == 0 and 0 < health.imbalance < 1
    assert watch.numbers()["mbu/dead_channels"] == pytest.approx(1 / 6)
    assert watch.numbers(each_layer=True)["mbu/conv/flip_ratio"] == health.flip_ratio
    assert "dead channels" in str(watch) and "conv" in str(watch)


def test_a_float_layer_has_no_input_health():
    layer = layer_of()
    layer.gate.fill_(0)
    watch = HealthWatch({"conv": layer})
    watch.look()
    layer(torch.randn(1, 4, 5, 5))
    watch.end_epoch()
    assert watch.latest["conv"].constant_channels is None and "mbu/imbalance" not in watch.numbers()


def test_few_values_prove_nothing():
    assert "constant_channels" not in input_health(layer_of(), torch.ones(7, 4, 3, 3))
    assert input_health(layer_of(), torch.ones(8, 4, 3, 3))["constant_channels"] == 1


@pytest.mark.parametrize("threshold, words", [("learned", "extras_lr=0.1"), ("zero", "thresholds='learned'")])
def test_constant_input_is_told_once_with_a_remedy(threshold, words):
    layer = quantize_layer(nn.Conv2d(4, 6, 3), "binary", threshold=threshold)
    watch, told = HealthWatch({"deep.conv": layer}), []
    for _ in range(4):
        watch.look()
        layer(torch.full((2, 4, 6, 6), 2.0))
        told.append(watch.end_epoch())
    assert [len(messages) for messages in told] == [0, 1, 0, 0]
    assert all(part in told[1][0] for part in ("'deep.conv': 100%", words, "exclude=['deep.conv']"))


def test_training_logs_and_shows_it(tiny, trainer, tmp_path, capsys):
    quantizer = MBUQuantize(float_share=0.5, order="all", log_layers=True)
    trainer(quantizer, logger=CSVLogger(tmp_path), enable_progress_bar=True).fit(tiny)
    epochs = read_log(next(tmp_path.rglob("metrics.csv")))
    assert "mbu/constant_channels" not in epochs[0] and 0 <= epochs[-1]["mbu/constant_channels"] < 0.5
    assert 0 < epochs[-1]["mbu/imbalance"] < 1 and "mbu/down1.conv1/flip_ratio" in epochs[-1]
    assert "One-bit layers in the last epoch" in capsys.readouterr().out
    charts = {chart.title: set(chart.series) for chart in curves(epochs)}
    assert {"mbu/constant_channels", "mbu/dead_channels"} <= charts["Channels that say nothing"]
    assert not any("down1" in name for series in charts.values() for name in series)
    assert all(not layer._forward_pre_hooks for layer in quantizer._layers.values())


def test_a_constant_layer_warns(tiny, trainer):
    with torch.no_grad():
        tiny.model.stem.norm1.weight.zero_()
        tiny.model.stem.norm1.bias.fill_(3.0)
    tiny.model.stem.norm1.requires_grad_(False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer(MBUQuantize("plain")).fit(tiny)
    of_stem = [str(x.message) for x in told if "layer 'stem.conv2'" in str(x.message)]
    assert len(of_stem) == 1 and "100% of its input channels" in of_stem[0]
