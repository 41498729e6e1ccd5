"""The options of `mbu study`, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

from .training import Experiment
from .workers import cores

STUDIES = ("table1", "ingredients", "figure3", "bits", "pareto", "front", "budget")
TIMED = ("pareto", "budget")  # of these, those that time every network that they train


@dataclass(frozen=True)
class StudySettings:
    """Options of `mbu study`.

    Attributes:
        name: one of `STUDIES`.
        data: folder of nuclei, CamVid or ISBI 2012.
        output: folder for the database, tables and plots.
        storage: SQLAlchemy URL that several machines share; None keeps the record in `output`.
        quick: 64 pixels, 8 epochs, as many processes as cores: the ordering in minutes, not the accuracy. `pareto` and
            `budget` time networks eagerly then, and compiled without.
        size: height of the images, pixels; by default 128, or 64 with `quick`.
        epochs: of every network; by default 12, or 8 with `quick`.
        width: channels of the first level.
        lr: peak learning rate of every network whose row names none; by default that of `Experiment`, and 1e-4 for a quick
            `table1`, at which the rows come in the order of the paper.
        shortcuts: real-valued shortcuts in every network, the float one too.
        seeds: runs of each row; by default 1, for a quick `table1` 3.
        processes: networks that train at the same time; by default 1. `pareto` and `budget` time theirs, one at a time.
        only: rows of `ingredients` and `front` to run, all if empty.
        permutations, depth: of `figure3`, see `shapley.chains`.
        all: all 2^n configurations of `figure3` instead of those.
        w_op: weights of the operations in the cost score of `pareto`, each another order of masking; that of the parameters
            is the rest.
        threads: processor threads for the timing of `pareto`, `front` and `budget`.
        at: height and width of the image that `front` times; by default that of the training images.
        scores: CSV of `ingredients` over the same data with the same settings, from which `front` takes scores and their
            spread; nothing is trained then.
        isa: instruction sets that `front` holds every candidate to, one after the other (`bench.isa.ISAS`).
        trials: networks that `budget` and `bits` try.
        max_dice_drop, max_latency_ms: of `budget`; give one.
    """

    name: str
    data: str
    output: str = "mbu-study"
    storage: str | None = None
    quick: bool = False
    size: int | None = None
    epochs: int | None = None
    width: int = 16
    lr: float | None = None
    shortcuts: bool = False
    seeds: int | None = None
    processes: int | None = None
    only: tuple[str, ...] = ()
    permutations: int = 6
    depth: int = 4
    all: bool = False
    w_op: tuple[float, ...] = (0.5,)
    threads: int = 1
    at: tuple[int, int] | None = None
    scores: str | None = None
    isa: tuple[str, ...] = ("native",)
    trials: int = 20
    max_dice_drop: float | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if self.name not in STUDIES:
            raise ValueError(f"study {self.name!r} is unknown; choose one of {', '.join(STUDIES)}.")
        for name in ("seeds", "processes", "permutations", "depth", "threads", "trials"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.timed and (self.processes or 1) > 1:
            raise ValueError(
                f"processes={self.processes}: {self.name} times its networks, one at a time; leave --processes out."
            )
        if self.all and self.name != "figure3":
            raise ValueError(f"--all is an option of figure3; {self.name} has no sample to complete.")
        if self.scores is not None and self.name != "front":
            raise ValueError(f"--scores is an option of front; {self.name} has to train its networks.")
        if self.lr is not None and not 0 < self.lr < 1:
            raise ValueError(f"lr={self.lr} must lie between 0 and 1, as 1e-3.")
        if self.name == "budget" and (self.max_dice_drop is None) == (self.max_latency_ms is None):
            raise ValueError(
                "budget needs either --max-dice-drop or --max-latency-ms, and one of them alone."
            )

    @property
    def pixels(self) -> int:
        return self.size if self.size is not None else (64 if self.quick else 128)

    @property
    def rate(self) -> float | None:
        """Peak learning rate of rows that name none; None leaves it to `Experiment`."""
        return 1e-4 if self.lr is None and self._for_order else self.lr

    @property
    def runs(self) -> int:
        """Of each row."""
        return self.seeds or (3 if self._for_order else 1)

    @property
    def timed(self) -> bool:
        """Whether every network is timed when it has been trained."""
        return self.name in TIMED

    @property
    def timed_as(self) -> str:
        """`"eager"` or `"compiled"`: how such networks run."""
        return "eager" if self.quick else "compiled"

    @property
    def side_by_side(self) -> int:
        """Networks that train at the same time."""
        return self.processes or (cores() if self.quick and not self.timed else 1)

    @property
    def _for_order(self) -> bool:
        # The order of the paper comes at a low rate, as a mean of seeds: docs/results/accuracy.md.
        return self.quick and self.name == "table1"

    @property
    def base(self) -> Experiment:
        """What every row starts from."""
        epochs = self.epochs if self.epochs is not None else (8 if self.quick else 12)
        return Experiment(width=self.width, shortcuts=self.shortcuts, epochs=epochs, lr=self.rate)

    def record(self, data: str) -> str:
        """Name of the record over a data set. It holds what makes results comparable: with other settings it is another
        study, and times of one are never taken for those of another."""
        study = "ingredients" if self.name == "front" else self.name  # what one has trained serves both
        name = f"{study}-{data}-{self.pixels}px-w{self.width}-e{self.base.epochs}"
        name += f"-lr{self.rate:g}" if self.rate is not None else ""
        name += "-shortcuts" if self.shortcuts else ""
        return f"{name}-{self.timed_as}-t{self.threads}" if self.timed else name
