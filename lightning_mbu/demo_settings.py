"""The demo's settings, apart from its code, so that `mbu --help` need not import a trainer."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DemoSettings:
    """What `mbu demo` does; the fields are its options.

    Attributes:
        data: folder of the 2018 Data Science Bowl nuclei; None generates images.
        layout: `"auto"`, `"compact"` or `"original"` (with `data`).
        output: folder for report.html, results.json and the packed networks.
        size: height and width of the training images, pixels.
        width: channels of the first level of the networks that are trained.
        epochs: passes over the training images, for each network; by default 24 with real data, 12 without.
        batch_size: images per step.
        lr: peak learning rate of every network; by default 3e-3 with shortcuts, 5e-3 for the others.
        count: images to generate (without `data`).
        seed: of everything random.
        bench_size: height and width of the images of the timing at full width.
        bench_width: network width of the timing at full width.
        threads: processor threads for the timing.
    """

    data: str | None = None
    layout: str = "auto"
    output: str = "mbu-demo"
    size: int = 128
    width: int = 16
    epochs: int | None = None
    batch_size: int = 8
    lr: float | None = None
    count: int = 240
    seed: int = 0
    bench_size: int = 256
    bench_width: int = 64
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "bench_size"):
            if getattr(self, name) % 16 or getattr(self, name) < 16:
                raise ValueError(f"{name}={getattr(self, name)} must be a multiple of 16, such as 128.")
        for name in ("width", "epochs", "batch_size", "bench_width", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if self.width < 8 or self.bench_width < 8:
            raise ValueError("width and bench_width must be at least 8: thinner layers stay float.")

    @property
    def rivals(self) -> tuple[int, ...]:
        """Widths of the narrower float networks that are trained beside the one-bit ones."""
        return (self.width // 2, self.width // 4)

    @property
    def passes(self) -> int:
        """Epochs of each network."""
        return self.epochs if self.epochs is not None else (12 if self.data is None else 24)

    def learning_rate(self, shortcuts: bool) -> float:
        """Peak learning rate of a network with or without shortcuts."""
        return self.lr if self.lr is not None else (3e-3 if shortcuts else 5e-3)


def field_help(name: str) -> str:
    """The description of one setting, as its docstring has it, on one line."""
    found = re.search(
        rf"^ +{name}(?:, \w+)*: (.*?)(?=^ +[a-z_]+(?:, \w+)*: |\Z)",
        DemoSettings.__doc__ or "",
        re.MULTILINE | re.DOTALL,
    )
    return re.sub(r"\s+", " ", found[1]).strip().rstrip(".").replace("`", "") if found else ""
