"""mbu report: the metrics of the BiSegUNet paper (section V.B and C) for one packed network, as a page and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..atomic import write_atomically
from ..bench.memory import peak_bytes
from ..benchmark import compare, frozen, measuring, time_floats
from ..comparison import COMPILED, Comparison
from ..deploy.packed import PackedModel
from ..folding import fold_transposed
from ..operations import Operations, count_operations
from ..page import layer_bars
from ..report import ClassPictureRow, Pareto, ParetoPoint, PictureRow, ReportTable, write_report
from ..scores import Scores
from ..training_log import Epochs, curves, read_log
from . import page
from .data import SceneData
from .float_rows import read_float
from .labels import label_map
from .recipe import score_network


@dataclass(frozen=True)
class SceneReport:
    """What `report` found.

    Attributes:
        scores: of the packed network.
        float_network, network: operations and parameters at one image, before and after.
        file_bytes: size of the packed file.
        speed: latencies of the packed and the float network, side by side; one image per call.
        peaks: bytes that one inference takes beside the weights, float and packed; None where that is not known.
        size: height and width of the images, pixels.
        packed: the network.
        pictures: test images with what it says.
        rivals: float networks of the same data, scored and timed here.
    """

    scores: Scores
    float_network: Operations
    network: Operations
    file_bytes: int
    speed: Comparison
    peaks: tuple[int | None, int | None]
    size: tuple[int, int]
    packed: PackedModel
    pictures: Sequence[PictureRow | ClassPictureRow] = ()
    rivals: Sequence[ParetoPoint] = ()

    @property
    def score(self) -> str:
        """The one that networks of this data set are compared by: Dice of the foreground, or mIoU."""
        return "dice" if len(self.scores.names) == 2 else "miou"

    def pareto(self, others: Sequence[ParetoPoint]) -> Pareto:
        """This network, compiled and not, among `others`."""
        own = [
            ParetoPoint(name, timing.median, score_of(self.scores), True)
            for name, timing in self.speed.timings.items()
            if name.startswith("packed")
        ]
        names = {"dice": "Dice of the foreground", "miou": "mIoU"}
        note = (
            "Other networks come from the files that --compare names, with the conditions stated there."
            if others
            else ""
        )
        return Pareto([*own, *self.rivals, *others], names[self.score], note)

    def fps(self, name: str) -> float:
        """Images per second of a candidate of `speed`, from its median time."""
        return 1e3 / self.speed.timings[name].median

    def tables(self) -> list[ReportTable]:
        """The paper's Table 3, for this network, and its Table 5."""
        rival = COMPILED if COMPILED in self.speed.timings else self.speed.best_rival
        float_bytes = 4 * self.float_network.float_parameters
        rows = [
            (
                "multiply-adds x 2 in float, G",
                self.float_network.float_flops / 1e9,
                self.network.float_flops / 1e9,
            ),
            ("multiply-adds x 2 in one bit, G", 0.0, self.network.one_bit / 1e9),
            ("FLOPs, 64 one-bit as one, G", self.float_network.flops / 1e9, self.network.flops / 1e9),
            (
                "float parameters, M",
                self.float_network.float_parameters / 1e6,
                self.network.float_parameters / 1e6,
            ),
            ("one-bit parameters, M", 0.0, self.network.one_bit_parameters / 1e6),
            (
                "parameters, 32 one-bit as one, M",
                self.float_network.parameters / 1e6,
                self.network.parameters / 1e6,
            ),
            ("memory of the weights, MB", float_bytes / 1e6, self.file_bytes / 1e6),
            ("memory of one inference beside them, MB", *(peak and peak / 1e6 for peak in self.peaks)),
            ("images per second", self.fps(rival), self.fps(self.speed.best_packed)),
        ]
        height, width = self.size
        efficiency = ReportTable(
            f"Efficiency at {height}x{width}",
            ("", f"float ({rival})", f"packed ({self.speed.best_packed})"),
            [(name, *("not known" if x is None else f"{x:.3f}" for x in values)) for name, *values in rows],
            note=f"{self.speed.verdict} Memory of one inference: what resident memory rises by during a call, compiled.",
        )
        return [
            efficiency,
            ReportTable("Classes", ("class", "IoU", "Dice", "share of pixels"), self.scores.rows()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; classes without a score are None."""
        return {
            "size": list(self.size),
            "miou": self.scores.miou, "accuracy": self.scores.accuracy,
            "dice": float(self.scores.dice[1]) if self.score == "dice" else self.scores.mean_dice,
            "classes": {
                name: None if math.isnan(iou) else iou
                for name, iou in zip(self.scores.names, self.scores.iou.tolist(), strict=True)
            },
            "rivals": [vars(point) for point in self.rivals], "float": vars(self.float_network), "packed": vars(self.network),
            "file_bytes": self.file_bytes, "peak_bytes": dict(zip(("float", "packed"), self.peaks, strict=True)),
            "speed": self.speed.to_dict(),
        }  # fmt: skip


def score_of(scores: Scores) -> float:
    """The score that networks are compared by: Dice of the foreground where there is one, else mIoU."""
    return float(scores.dice[1]) if len(scores.names) == 2 else scores.miou


def measure_peaks(
    model: nn.Module, packed: nn.Module, image: Tensor, threads: int
) -> tuple[int | None, int | None]:
    """Bytes that one inference takes beside the weights, float and packed, both compiled as `compare` times them.

    Args:
        image: `[1, C, H, W]`.
        threads: of the inference.

    Returns:
        None where no compiler works, or where this system does not tell.
    """
    torch.compiler.reset()
    compiled = torch.compile(packed)
    with measuring(threads, model, packed), torch.no_grad():
        try:
            call, _ = frozen(fold_transposed(model, image), image)
            compiled(image)
        except RuntimeError:  # no C++ compiler; the table of latencies says so
            return None, None
        return peak_bytes(call), peak_bytes(lambda: compiled(image))


def report(
    path: Path, packed: PackedModel, model: nn.Module, data: SceneData, threads: int = 1, repeats: int = 9,
    floats: Sequence[Path] = (),
) -> SceneReport:  # fmt: skip
    """Measures a packed network.

    Args:
        path: of its file.
        packed: what `load(path)` returned.
        model: its float twin; weights do not matter, it is counted and timed.
        data: scored on the test split.
        threads: for the timing.
        repeats: rounds of the timing.
        floats: files of float networks that a recipe has trained on the same data.

    Raises:
        FileNotFoundError: one of `floats` is not there.
        ValueError: `model` has no layer of a name that `packed` has: it is not its twin.
    """
    rivals = {f"float, {file.stem}": read_float(file) for file in floats}
    size = (1, packed.input_spec.channels, *data.size)
    network = count_operations(model, size, {layer.name for layer in packed.layers})
    scores = score_network(packed, data.test_dataloader(), data.labels.names)
    image = data.split("test")[0][0][None]
    peaks = measure_peaks(model.eval(), packed, image, threads)
    speed = compare(model, packed, image, threads, repeats)
    times = time_floats(rivals, image, threads, repeats) if rivals else {}
    points = [
        ParetoPoint(
            name,
            timing.median,
            score_of(score_network(rivals[name], data.test_dataloader(), data.labels.names)),
            False,
        )
        for name, timing in times.items()
    ]
    return SceneReport(
        scores,
        count_operations(model, size, []),
        network,
        path.stat().st_size,
        speed,
        peaks,
        (data.size[0], data.size[1]),
        packed,
        page.pictures(packed, data.split("test")),
        points,
    )


def write(
    found: SceneReport, name: str, output: Path, others: Sequence[ParetoPoint] = (), epochs: Epochs = ()
) -> Path:
    """Writes the page `output` and the same as JSON beside it; returns the page.

    Args:
        others: networks to compare with.
        epochs: what was logged in training.
    """
    summary = [
        ("mIoU", f"{found.scores.miou:.1%}"), ("Dice", f"{found.scores.mean_dice:.1%}"),
        ("pixel accuracy", f"{found.scores.accuracy:.1%}"),
        ("images per second", f"{found.fps(found.speed.best_packed):.1f}"),
        ("size", f"{found.file_bytes / 1e6:.3f} MB"),
    ]  # fmt: skip
    write_atomically(output.with_suffix(".json"), json.dumps(found.to_dict(), indent=1).encode())
    conditions = {**found.speed.conditions, "images": f"one per call, {found.size[0]}x{found.size[1]}"}
    return write_report(
        output, title=name, summary=summary, tables=found.tables(), conditions=conditions,
        pareto=found.pareto(others), layers=layer_bars(found.packed), pictures=found.pictures,
        curves=curves(epochs),
    )  # fmt: skip


def run(options: Any, console: Any) -> int:
    """`mbu report`."""
    from ..deploy import load
    from ..model_names import find_model

    torch.manual_seed(0)
    epochs = read_log(options.log) if options.log else ()
    score = "dice" if label_map(options.dataset).classes == 2 else "miou"
    others = [point for path in options.compare for point in page.read_points(path, score)]
    data = SceneData(options.dataset, options.root, size=options.size, batch_size=1, workers=0)
    model = find_model(options.model, options.arguments)
    found = report(
        options.packed, load(options.packed), model, data, options.threads, options.repeats, options.float
    )
    console.print(found.scores)
    console.print(found.speed.table())
    for point in found.rivals:
        console.print(
            f"{point.name}: {found.score} {point.score:.3f} in {point.ms:.2f} ms, compiled", highlight=False
        )
    console.print(f"Report: {write(found, options.packed.name, options.output, others, epochs)}")
    if options.json:
        print(json.dumps(found.to_dict()))
    return 0
