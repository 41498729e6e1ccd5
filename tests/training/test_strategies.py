"""Strategies that shard parameters: refused by what they are, whatever they are called."""

import sys
from unittest.mock import MagicMock

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_mbu import MBUQuantize
from lightning_mbu.prepare import quantized_layers


@pytest.fixture
def one_process(monkeypatch):
    """A process group of this process alone, as these strategies start one."""
    monkeypatch.setenv(
        "LOCAL_RANK", "0"
    )  # Lightning would start this script anew, and leave its variables behind
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield
    torch.distributed.destroy_process_group()


class OnProcessors(FSDPStrategy):
    """Lightning keeps FSDP itself to GPUs; a subclass of a user's own runs anywhere."""


@pytest.mark.parametrize(
    "strategy", [OnProcessors, lambda: ModelParallelStrategy(1, 1)], ids=["FSDP", "tensor parallel"]
)
def test_a_fit_that_would_shard_is_refused(tiny, trainer, strategy, one_process):
    strategy = strategy()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    run = trainer(MBUQuantize(), strategy=strategy, devices=1)
    with pytest.raises(
        MisconfigurationException, match=f'{type(strategy).__name__}: it shards .* strategy="ddp"'
    ):
        run.fit(tiny)
    after = tiny.state_dict()
    assert not list(quantized_layers(tiny)) and before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_deepspeed_is_refused(tiny, trainer, monkeypatch):
    # The strategy is Lightning's own; its package, which needs a CUDA compiler, is asked for a logger only.
    monkeypatch.setitem(sys.modules, "deepspeed", MagicMock())
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._DEEPSPEED_AVAILABLE", True)
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._DEEPSPEED_GREATER_EQUAL_0_16", True)
    run = trainer(MBUQuantize(), strategy=DeepSpeedStrategy(), devices=1)
    with pytest.raises(MisconfigurationException, match="DeepSpeedStrategy: it shards"):
        run.callbacks[0].setup(run, tiny, "fit")
