"""The job `training`: a run that is killed (SIGKILL) at random moments and goes on each time ends as if nothing had happened.

Runs are forked from one process that has imported everything and started no threads, so that most of a run's time is
training, and kills meet it in every phase, inside steps and inside checkpoints. After each kill the checkpoint that is
there must load.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_mbu import MBUQuantize
from lightning_mbu.models.unet import DoubleConv, Stem, Up
from lightning_mbu.schedule import Phases

from .job import Report

STEPS = 16  # four epochs of four batches
SETTINGS: list[dict[str, Any]] = [
    {"regularizer": 1e-4},
    {"ramp": 0.125, "mask_rule": "learned", "order": "cost"},
    {"scale": "analytic", "order": "reverse"},
    {"planes": 2, "shift": True, "clip": 0.2, "weights_after": 0.125, "estimator": "annealed"},
]
PHASES = {"float_share": 0.375, "incremental_share": 0.25}
MOST_KILLS = 4  # of one run; then it may end


class SmallUNet(nn.Module):
    """One level of `MBUNet`, with learned thresholds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = Stem(3, 8, True), nn.MaxPool2d(2)
        self.down, self.up = DoubleConv(8, 8, True), Up(8, 8, True)
        self.activation, self.head = nn.ReLU(), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(x)
        return self.head(self.activation(self.up(self.down(self.pool(skip)), skip)))


class Segmenter(L.LightningModule):
    """Batches are made from the number of the step: a loader begins anew where a run goes on inside an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = SmallUNet()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.global_step)
        x = torch.randn(2, 3, 16, 16, generator=generator)
        y = (nn.functional.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2) > 0).float()
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 1)), batch_size=1)


def train(folder: Path, settings: dict[str, Any]) -> None:
    """Trains to the end, from the last checkpoint in `folder` where there is one; leaves a digest of every value."""
    L.seed_everything(3, verbose=False)
    last = folder / "last.ckpt"
    quantizer = MBUQuantize(**PHASES, **settings)
    saving = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    module = Segmenter()
    run = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=4,
        default_root_dir=folder, callbacks=[quantizer, saving],
    )  # fmt: skip
    run.fit(module, ckpt_path=last if last.is_file() else None, weights_only=True)
    assert run.global_step == STEPS and quantizer.phase == "quantized"
    values = {**module.state_dict(), **_tensors(run.optimizers[0].state_dict()["state"])}
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode() + values[name].contiguous().numpy().tobytes())
    (folder / "end").write_text(digest.hexdigest())


def _tensors(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def kill(child: int, folder: Path, in_write: bool) -> None:
    """Ends the process `child`; if `in_write`, while it writes a checkpoint, should it do so in the next second."""
    until = time.monotonic() + in_write
    while time.monotonic() < until and not any(folder.glob(".*.part")):
        pass
    os.kill(child, signal.SIGKILL)


def attempt(folder: Path, settings: dict[str, Any], kill_after: float | None, in_write: bool = False) -> bool:
    """Trains in a fork, which is killed after so many seconds; whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            warnings.simplefilter("ignore")
            train(folder, settings)
            code = 0
        except Exception:  # noqa: BLE001 (told, whatever it is)
            traceback.print_exc()
        finally:
            os._exit(code)
    timer = threading.Timer(kill_after or 600, kill, (child, folder, in_write))
    timer.start()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # its number stays its own until the timer has ended
    timer.cancel()
    timer.join()  # no thread when the next process is forked
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0 or (status == -signal.SIGKILL and kill_after is not None), f"a run ended with {status}"
    return status == 0


def place_of(folder: Path) -> str:
    """The phase that a killed run had reached, by its checkpoint."""
    last = folder / "last.ckpt"
    if not last.is_file():
        return "before the first checkpoint"
    callbacks = torch.load(last, weights_only=True)["callbacks"]
    (state,) = (state for key, state in callbacks.items() if key.startswith("MBUQuantize"))
    return Phases(**PHASES).phase(state["progress"])


def run(report: Report, count: int, number: int) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    r = random.Random(number)
    kills = runs = halves = 0
    places: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        whole: dict[int, tuple[str, float]] = {}  # what a run ends with, and seconds
        while kills < count:
            index, mine = runs % len(SETTINGS), 0
            if index not in whole:
                folder, began = Path(place, f"whole {index}"), time.monotonic()
                folder.mkdir()
                attempt(folder, SETTINGS[index], None)
                whole[index] = (folder / "end").read_text(), time.monotonic() - began
            expected, seconds = whole[index]
            folder = Path(place, f"killed {runs}")
            folder.mkdir()
            report.keep(f"run {runs}, {SETTINGS[index]}, killed {kills} times before")
            while not attempt(
                folder,
                SETTINGS[index],
                r.uniform(0, seconds) if mine < MOST_KILLS else None,
                r.random() < 0.5,
            ):
                mine += 1
                places[place_of(folder)] += 1
                report.progress(kills + mine)
            found = (folder / "end").read_text()
            assert found == expected, f"run {runs}, {SETTINGS[index]}: other values after {mine} kills"
            kills, runs = kills + mine, runs + 1
            halves += len(list(folder.glob(".*.part")))
    report.result(
        f"{kills} kills in {runs} runs of {STEPS} steps, every value as in a run without",
        ", ".join(f"{count} {name}" for name, count in places.items())
        + f"; {halves} inside the writing of a checkpoint",
    )
