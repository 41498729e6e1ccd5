"""mbu ablation: figure 8 and Tables 7, 8 and 9 of the BiSegUNet paper, trained side by side over several seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import lightning as L
from rich.table import Table

from ..atomic import write_atomically
from ..callback import MBUQuantize
from ..models import BiSegUNet
from ..operations import count_operations
from ..scene_options import AblationSettings
from .data import SceneData
from .module import LitScenes
from .recipe import score_network

# Study -> variant -> what differs from the paper's network.
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "figure8": {
        "without capacity blocks": {"capacity_blocks": 0},
        "capacity blocks without attention": {"channel_attention": "none"},
        "capacity blocks": {},
    },
    "table7": {
        "without capacity blocks": {"capacity_blocks": 0},
        "ASPP and SE": {"channel_attention": "se"},
        "ASPP and CBAM": {"channel_attention": "cbam"},
        "capacity blocks": {},
    },
    "table8": {
        "without capacity blocks": {"capacity_blocks": 0},
        "no binary branch": {"branches": ("dilated", "grouped")},
        "no dilated branch": {"branches": ("binary", "grouped")},
        "no grouped branch": {"branches": ("binary", "dilated")},
        "capacity blocks": {},
    },
    "table9": {f"{count} blocks": {"capacity_blocks": count} for count in range(5)},
}


@dataclass(frozen=True)
class Result:
    """One variant: mIoU in [0, 1] of every seed on the test split, FLOPs with 64 one-bit operations as one."""

    name: str
    miou: tuple[float, ...]
    flops: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.miou)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; 0 for one seed."""
        return statistics.stdev(self.miou) if len(self.miou) > 1 else 0.0


def ablate(
    study: str, settings: AblationSettings, progress: Callable[[str], Any] = lambda line: None, **trainer: Any
) -> list[Result]:
    """Trains and scores every variant of a study.

    Args:
        study: a name in `STUDIES`.
        settings: of every run.
        progress: is told each run's result.
        trainer: further options of Lightning's `Trainer`.

    Raises:
        ValueError: an unknown study.
    """
    if study not in STUDIES:
        raise ValueError(f"study={study!r} is unknown; choose one of {', '.join(STUDIES)}.")
    results = []
    for name, difference in STUDIES[study].items():
        scores = []
        for seed in range(settings.seeds):
            module = _train(difference, settings, seed, trainer)
            scores.append(
                score_network(module.model, _data(settings, seed).test_dataloader(), module.names).miou
            )
            progress(f"{name}, seed {seed}: mIoU {scores[-1]:.1%}")
        results.append(
            Result(name, tuple(scores), count_operations(module.model, (1, 3, *settings.size)).flops)
        )
    return results


def _data(settings: AblationSettings, seed: int) -> SceneData:
    return SceneData(
        settings.dataset, settings.root, size=settings.size, batch_size=settings.batch_size,
        workers=settings.workers, seed=seed,
    )  # fmt: skip


def _train(
    difference: dict[str, Any], settings: AblationSettings, seed: int, options: dict[str, Any]
) -> LitScenes:
    L.seed_everything(seed, workers=True, verbose=False)
    data = _data(settings, seed)
    model = BiSegUNet(classes=data.labels.classes, width=settings.width, **difference)
    module = LitScenes(model, settings.dataset, lr=settings.lr)
    callbacks: list[L.Callback] = (
        [MBUQuantize("bisegunet", input_size=settings.size, min_channels=4)] if settings.quantize else []
    )
    trainer = L.Trainer(
        max_epochs=settings.epochs, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(module, data)
    module.model.cpu().eval()
    return module


def table(study: str, results: list[Result], settings: AblationSettings) -> Table:
    """The results as the paper prints them, with the conditions they hold under."""
    height, width = settings.size
    shown = Table(
        title=f"{study}: {settings.dataset} at {height}x{width}, width {settings.width}, {settings.epochs} epochs, "
        f"{settings.seeds} seeds, {'one-bit' if settings.quantize else 'float'}",
        title_justify="left",
    )
    for heading in ("variant", "mIoU", "MFLOPs"):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    for x in results:
        shown.add_row(x.name, f"{x.mean:.1%} ± {x.deviation:.1%}", f"{x.flops / 1e6:,.1f}")
    return shown


def run(options: Any, console: Any) -> int:
    """`mbu ablation`."""
    values = {field.name: getattr(options, field.name) for field in fields(AblationSettings)}
    settings = AblationSettings(**values)
    results = ablate(options.study, settings, lambda line: console.print(line, highlight=False))
    console.print(table(options.study, results, settings))
    content = {"study": options.study, "settings": asdict(settings), "results": [asdict(x) for x in results]}
    write_atomically(options.output, json.dumps(content, indent=1).encode())
    if options.json:
        print(json.dumps(content))
    return 0
