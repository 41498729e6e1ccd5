"""Loss, schedule and scores of the scenes' LightningModule."""

import lightning as L
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

from lightning_mbu import MBUQuantize, make_plan, prepare
from lightning_mbu.models import BiSegUNet, MBUNet
from lightning_mbu.scenes import LitScenes, SceneData, write_tree
from lightning_mbu.scenes.labels import IGNORE
from lightning_mbu.scenes.recipe import _FLOAT
from lightning_mbu.scores import scores


def test_scores_are_those_of_torchmetrics():
    truth, predicted = torch.randint(0, 5, (2, 4000))
    truth[predicted == 4], predicted[predicted == 4] = 3, 3
    truth[truth == 4] = 2  # class 4 neither occurs nor is predicted
    confusion = torch.zeros(5, 5).index_put((truth, predicted), torch.ones(4000), accumulate=True)
    found = scores(confusion, "abcde")
    for values, metric in ((found.iou, MulticlassJaccardIndex), (found.dice, MulticlassF1Score)):
        expected = metric(5, average=None)(predicted, truth)
        torch.testing.assert_close(values[:4], expected[:4].double())
        assert values[4].isnan()
    assert found.miou == pytest.approx(found.iou[:4].mean().item())
    assert found.accuracy == pytest.approx((truth == predicted).double().mean().item())
    assert found.rows()[4][:3] == ("e", "-", "-") and "mIoU" in str(found)
    with pytest.raises(ValueError, match=r"shape \(5, 5\) for 3 classes"):
        scores(confusion, "abc")


def test_loss_is_smoothed_cross_entropy_plus_dice():
    module = LitScenes(nn.Conv2d(3, 11, 1), "camvid", smoothing=0.1)
    module.log = lambda *args, **options: None
    logits, classes = torch.randn(2, 3, 8, 8), torch.randint(0, 11, (2, 8, 8))
    classes[:, :3] = IGNORE
    found = module.training_step((logits, classes), 0)
    p = module(logits).softmax(1)
    labelled = classes != IGNORE
    one_hot = nn.functional.one_hot(classes.where(labelled, 0), 11).permute(0, 3, 1, 2) * labelled[:, None]
    smooth = 0.9 * one_hot + 0.1 / 11 * labelled[:, None]  # Eq. 26
    cross_entropy = -(smooth * p.log()).sum() / labelled.sum()  # Eq. 18
    p = p * labelled[:, None]
    overlap, total = ((p * one_hot).sum((0, 2, 3)), (p + one_hot).sum((0, 2, 3)))
    present = one_hot.sum((0, 2, 3)) > 0
    dice = ((1 - 2 * overlap / total) * present).mean()  # Eq. 19
    torch.testing.assert_close(found, cross_entropy + dice)


def test_float_networks_of_the_other_paper_train_with_rmsprop():
    module = LitScenes(
        nn.Conv2d(3, 2, 1), "nuclei", lr=1e-5, weight_decay=1e-8, cosine=False, **_FLOAT["mbunet"]
    )
    (optimizer,), _ = module.configure_optimizers()
    assert type(optimizer) is torch.optim.RMSprop
    for group in optimizer.param_groups:
        assert (group["momentum"], group["lr"], group["weight_decay"]) == (0.9, 1e-5, 1e-8)  # Table A.1
    with pytest.raises(ValueError, match="optimizer='sgd' is unknown; choose one of adam, rmsprop"):
        LitScenes(nn.Conv2d(3, 2, 1), "nuclei", optimizer="sgd")


def test_rates_of_float_layers_and_thresholds():
    model = MBUNet(classes=2, width=8)
    prepared = prepare(model, make_plan(model, torch.empty(1, 3, 32, 32)))
    slower = LitScenes(prepared, "nuclei", lr=1e-2, cosine=False, float_lr=0.5, extras_lr=0.1)
    (optimizer,), _ = slower.configure_optimizers()
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"latent": 1e-2, "extras": 1e-3, "float": 5e-3, "float, no decay": 5e-3}


class Rates(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_phases_of_the_paper_with_warm_restarts(tmp_path):
    data = SceneData(
        "camvid", str(write_tree("camvid", tmp_path, size=(32, 32))), size=(32, 32), batch_size=2, workers=0
    )
    rates, quantizer = Rates(), MBUQuantize("bisegunet", input_size=(32, 32))
    module = LitScenes(BiSegUNet(width=16, classes=11), "camvid")
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=9, callbacks=[quantizer, rates], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)  # 18 steps: 5 float, 10 incremental, 3 quantized
    assert [step for step, rate in enumerate(rates.seen) if rate == pytest.approx(1e-3)] == [0, 5, 15]
    assert rates.seen[4] < 2e-4 and rates.seen[14] < 1e-4
    assert all(float(layer.gate) == 1 and layer.kind == "binary" for layer in quantizer._layers.values())
    assert all(
        layer.scale is not None and (layer.effective_scale() > 0).all()
        for layer in quantizer._layers.values()
    )
    assert module.scores is not None and 0 <= module.scores.miou <= 1
