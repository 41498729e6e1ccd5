"""What goes wrong in a run ends it with a message, and leaves a checkpoint from which it goes on."""

import errno
import functools
import os
import re
import resource
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_mbu import MBUQuantize, convert, load_from_checkpoint
from lightning_mbu.companions import WholeCheckpoints

PHASES = {"float_share": 0.25, "incremental_share": 0.25}
# The callback that did harm is not there when the run goes on.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")


class Small(L.LightningModule):
    """Two layers to quantize; batches are made from the number of the step."""

    def __init__(self):
        super().__init__()
        blocks = [[nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()] for _ in range(2)]
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *blocks[0], *blocks[1], nn.Conv2d(8, 1, 1))

    def training_step(self, batch, batch_idx):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(self.global_step))
        return self.model(x).sub(x.mean(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)

    def train_dataloader(self):
        return DataLoader(torch.zeros(4, 1), batch_size=1)


class At(Callback):
    """Does something to the module before the optimizer step behind step `step`."""

    def __init__(self, step, harm):
        self.step, self.harm = step, harm

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            self.harm(pl_module)


@pytest.fixture
def train(trainer, tmp_path, one_thread):
    """Trains eight steps, in two phases and the switch between them, with a checkpoint behind each step."""

    def run(*callbacks, resume=False, kind=Small, **options):
        L.seed_everything(1, verbose=False)
        saving = ModelCheckpoint(tmp_path / "run", every_n_train_steps=1, save_last=True, save_top_k=0)
        fit = trainer(
            MBUQuantize(**PHASES), saving, *callbacks, epochs=2, enable_checkpointing=True, **options
        )
        module = kind()
        path = tmp_path / "run" / "last.ckpt" if resume else None
        fit.fit(module, ckpt_path=path, weights_only=True)
        return module.state_dict()

    return run


def same(found, expected):
    return all(torch.equal(found[name], value) for name, value in expected.items())


@functools.cache
def _values():
    return {}


def undisturbed(train):
    """What a run without faults ends with."""
    if not _values():
        _values().update(train())
    return _values()


def of_gradients(value):
    return lambda module: [p.grad.fill_(value) for p in module.parameters()]


@pytest.mark.parametrize(
    "step, value", [(1, "nan"), (3, "inf"), (6, "-inf")], ids=["float", "switching", "quantized"]
)
def test_gradients_that_are_not_finite_never_reach_a_checkpoint(train, tmp_path, step, value):
    with pytest.raises(FloatingPointError, match=r"'0\.weight' has become NaN .*written so far are good"):
        train(At(step, of_gradients(float(value))))
    stored = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == step
    assert same(train(resume=True), undisturbed(train))


@pytest.mark.parametrize("first, second", [(3, 4), (4, 6)])
def test_a_run_that_is_stopped_again_trains_no_batch_twice(train, tmp_path, first, second):
    """The fourth step is the last of its epoch."""

    def stop(module):
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        train(At(first, stop))
    with pytest.raises(KeyError):
        train(At(second, stop), resume=True)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == second
    assert same(train(resume=True), undisturbed(train))


def test_a_loss_of_nan_is_stopped_at_the_end_of_its_epoch(trainer, one_thread):
    class Lossy(Small):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("nan") if batch_idx == 2 else 1.0)

    with pytest.raises(FloatingPointError, match="Lower the learning rate or clip gradients"):
        trainer(MBUQuantize(**PHASES), epochs=2).fit(Lossy())


def test_statistics_that_one_image_has_spoiled_are_no_checkpoint(train):
    def spoil(module):
        module.model[2].running_var[3] = float("nan")

    with pytest.raises(FloatingPointError, match=r"'2\.running_var' has become NaN"):
        train(At(3, spoil))


@pytest.mark.parametrize("full", [errno.ENOSPC, "the file becomes too large"], ids=["told", "real"])
def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(train, tmp_path, monkeypatch, full):
    """The kernel stops a write half-way, as on a full disk, where it is told how large a file may become."""
    folder, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(module):
        size = (folder / "last.ckpt").stat().st_size
        if full != errno.ENOSPC:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
            return

        def no_room(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", no_room)

    words = r"last\.ckpt could not be written \(.*\); what stood there before is untouched"
    try:
        with pytest.raises(OSError, match=words):
            train(At(4, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert [file.name for file in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 4
    assert same(train(resume=True), undisturbed(train))


def test_checkpoints_are_written_where_they_will_lie(train, tmp_path, monkeypatch):
    """The system's folder for temporary files may be another disk, from which a file is copied, not renamed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not there"))
    monkeypatch.setattr("tempfile.tempdir", None)
    train()
    assert (tmp_path / "run" / "last.ckpt").is_file()
    module = load_from_checkpoint(Small, tmp_path / "run" / "last.ckpt")
    convert(module.model.eval(), torch.randn(1, 3, 8, 8))


def test_a_users_way_of_writing_checkpoints_stays(trainer, tmp_path):
    class Own(WholeCheckpoints):
        pass

    run = trainer(MBUQuantize(**PHASES), epochs=1, plugins=[Own()])
    run.fit(Small())
    assert type(run.strategy.checkpoint_io) is Own


class Deadly(Dataset):
    """The process that reads item 5 dies."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        if item == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


# The queue of the worker that died is collected later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_ends_the_run_and_the_checkpoint_stays(train, tmp_path):
    class Worked(Small):
        def train_dataloader(self):
            return DataLoader(Deadly(), batch_size=2, num_workers=1, prefetch_factor=1)

    with pytest.raises(
        RuntimeError, match=r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)"
    ):
        train(kind=Worked)
    stored = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert 1 <= stored["global_step"] <= 2
    assert same(train(resume=True), undisturbed(train))


def test_whole_checkpoints_follow_the_interface(tmp_path):
    with pytest.raises(TypeError, match=re.escape("storage_options")):
        WholeCheckpoints().save_checkpoint({}, tmp_path / "x.ckpt", storage_options={})
    WholeCheckpoints().save_checkpoint({"a": 1}, tmp_path / "made" / "x.ckpt")
    assert WholeCheckpoints().load_checkpoint(tmp_path / "made" / "x.ckpt") == {"a": 1}
