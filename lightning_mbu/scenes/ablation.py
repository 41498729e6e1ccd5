"""mbu ablation: figure 8 and Tables 7, 8 and 9 of the BiSegUNet paper, and shortcuts, trained side by side over several seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from ..atomic import write_atomically
from ..callback import MBUQuantize
from ..models import BiSegUNet
from ..operations import count_operations
from ..runs import StepReport, quiet_lightning
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
    "table9": {f"{count} blocks": {"capacity_blocks": count} for count in range(4)} | {"4 blocks": {}},
    "shortcuts": {
        "capacity blocks": {},
        "shortcuts": {"shortcuts": True},
        "shortcuts from 1/8 on": {"shortcuts": [3, 4]},
        "shortcuts at 1/16": {"shortcuts": [4]},
    },
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


class Record:
    """Finished runs, kept in a file: the studies share variants, and one that was stopped goes on.

    Args:
        path: JSON, read if it exists and replaced after every run; None keeps runs in memory alone.
        settings: of every run.

    Raises:
        FileNotFoundError: the file's folder does not exist; told here and not behind the first run.
        ValueError: the file holds something else, or runs with other settings.
    """

    def __init__(self, path: Path | None, settings: AblationSettings):
        self.path = path
        # What does not change what a run gives; the folder may have another name elsewhere.
        free = ("seeds", "workers", "root", "only")
        self.settings = {k: v for k, v in asdict(settings).items() if k not in free}
        self.runs: dict[str, dict[str, float]] = {}
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder of --output {path} does not exist; create it.")
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            kept, self.runs = found["settings"], found["runs"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a record of mbu ablation ({error!r}); give another --output."
            ) from error
        # A setting that an older record does not know had its default.
        kept = {**asdict(AblationSettings()), **kept}
        other = {k: kept.get(k) for k, v in self.settings.items() if json.loads(json.dumps(v)) != kept.get(k)}
        if other:
            raise ValueError(
                f"{path} holds runs with {other}; repeat these settings or give another --output."
            )

    def get(self, key: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The scores under `key`, of an earlier call or of `run`."""
        if key not in self.runs:
            self.runs[key] = run()
            if self.path is not None:
                content = {"settings": self.settings, "runs": self.runs}
                write_atomically(self.path, json.dumps(content, indent=1).encode())
        return self.runs[key]


def ablate(
    study: str,
    settings: AblationSettings,
    record: Record | None = None,
    progress: Callable[[str, float], Any] = lambda step, share: None,
    **trainer: Any,
) -> list[Result]:
    """Trains and scores every variant of a study that `record` does not hold yet; one seed of all, then the next.

    Args:
        study: a name in `STUDIES`.
        settings: of every run.
        record: of these settings; None keeps nothing.
        progress: is told what runs and its share that is done, in [0, 1]; at 1 with the result.
        trainer: further options of Lightning's `Trainer`.

    Raises:
        ValueError: an unknown study or variant.
    """
    if study not in STUDIES:
        raise ValueError(f"study={study!r} is unknown; choose one of {', '.join(STUDIES)}.")
    if unknown := set(settings.only) - STUDIES[study].keys():
        raise ValueError(
            f"{study} has no variant {min(unknown)!r}; choose among {', '.join(STUDIES[study])}."
        )
    variants = {name: d for name, d in STUDIES[study].items() if not settings.only or name in settings.only}
    record = record or Record(None, settings)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for seed in range(settings.seeds):
        for name, difference in variants.items():
            key = f"{json.dumps(difference, sort_keys=True)} #{seed}"
            steps = StepReport(lambda share, step=f"{name}, seed {seed}": progress(step, min(share, 0.99)))
            run = record.get(key, lambda d=difference, s=seed, c=steps: _run(d, settings, s, c, trainer))
            progress(f"{name}, seed {seed}: mIoU {run['miou']:.1%}", 1.0)
            found[name].append(run)
    return [Result(name, tuple(r["miou"] for r in runs), runs[0]["flops"]) for name, runs in found.items()]


def _run(
    difference: dict[str, Any],
    settings: AblationSettings,
    seed: int,
    steps: L.Callback,
    options: dict[str, Any],
) -> dict[str, float]:
    """Trains one variant; its `miou` on the test split and its `flops`."""
    L.seed_everything(seed, workers=True, verbose=False)
    data = SceneData(
        settings.dataset, settings.root, size=settings.size, batch_size=settings.batch_size,
        workers=settings.workers, seed=seed,
    )  # fmt: skip
    model: nn.Module = BiSegUNet(classes=data.labels.classes, width=settings.width, **difference)
    if settings.quantize and settings.from_float:
        model = _train(model, data, settings, [steps], options).model
    quantize = MBUQuantize(settings.preset, input_size=settings.size, min_channels=4)
    module = _train(model, data, settings, [steps, quantize] if settings.quantize else [steps], options)
    network = module.model.cpu().eval()
    scored = score_network(network, data.test_dataloader(), module.names)
    return {"miou": scored.miou, "flops": count_operations(network, (1, 3, *settings.size)).flops}


def _train(
    model: nn.Module,
    data: SceneData,
    settings: AblationSettings,
    callbacks: list[L.Callback],
    options: dict[str, Any],
) -> LitScenes:
    module = LitScenes(model, settings.dataset, lr=settings.lr)
    trainer = L.Trainer(
        max_epochs=settings.epochs, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(module, data)
    return module


def table(study: str, results: list[Result], settings: AblationSettings) -> Table:
    """The results as the paper prints them, with the conditions they hold under."""
    height, width = settings.size
    shown = Table(
        title=f"{study}: {settings.dataset} at {height}x{width}, width {settings.width}, {settings.epochs} epochs, "
        f"{settings.seeds} seeds, {f'one-bit, preset {settings.preset}' if settings.quantize else 'float'}"
        + (", from float" if settings.quantize and settings.from_float else ""),
        title_justify="left",
    )
    for heading in ("variant", "mIoU", "MFLOPs"):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    for x in results:
        shown.add_row(x.name, f"{x.mean:.1%} ± {x.deviation:.1%}", f"{x.flops / 1e6:,.1f}")
    return shown


def run(options: Any, console: Any) -> int:
    """`mbu ablation`."""
    quiet_lightning()
    values = {field.name: getattr(options, field.name) for field in fields(AblationSettings)}
    settings = AblationSettings(**{**values, "only": tuple(options.only)})
    record = Record(options.output, settings)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(options.study, total=1)

        def progress(step: str, share: float) -> None:
            bar.update(task, description=step, completed=share)
            if share == 1:
                bar.console.print(step, highlight=False)

        results = ablate(options.study, settings, record, progress)
    console.print(table(options.study, results, settings))
    if options.json:
        content = {"study": options.study, "settings": asdict(settings)}
        print(json.dumps({**content, "results": [asdict(result) for result in results]}))
    return 0
