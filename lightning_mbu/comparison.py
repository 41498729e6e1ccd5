"""What a comparison of latencies found: a table for people, plain types for files, one sentence to act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from .timing import Timing, ratio

COMPILED = "float compiled"
PACKED, PACKED_COMPILED = "packed eager", "packed compiled"


@dataclass(frozen=True)
class Comparison:
    """Outcome of `compare`.

    Attributes:
        timings: candidate -> times in ms.
        differences: candidate -> largest difference from its eager twin, as a share of the twin's largest output.
        formats: candidate -> the variant (memory format, casting) that was fastest and is the one timed.
        not_run: candidate -> why it could not run here.
        float_bytes, packed_bytes: parameters and buffers of either model.
        conditions: what the numbers depend on.
    """

    timings: dict[str, Timing]
    differences: dict[str, float]
    formats: dict[str, str]
    not_run: dict[str, str]
    float_bytes: int
    packed_bytes: int
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def best_rival(self) -> str:
        """Name of the fastest candidate that is not packed."""
        rivals = [name for name in self.timings if name not in (PACKED, PACKED_COMPILED)]
        return min(rivals, key=lambda name: self.timings[name].median)

    @property
    def best_packed(self) -> str:
        """Name of the fastest packed candidate."""
        ours = [name for name in (PACKED, PACKED_COMPILED) if name in self.timings]
        return min(ours, key=lambda name: self.timings[name].median)

    def fastest(self, kind: str) -> str | None:
        """Name of the fastest candidate whose name begins with `kind`, such as `int8`; None where none was timed."""
        found = [name for name in self.timings if name.startswith(kind)]
        return min(found, key=lambda name: self.timings[name].median) if found else None

    @property
    def speedup(self) -> float:
        """The best rival's time over the best packed one's; below 1 the packed one is slower."""
        return self.speed(self.best_packed)

    def speed(self, name: str) -> float:
        """The best rival's time over this candidate's, within rounds; 1 is the rival itself."""
        return ratio(self.timings[self.best_rival], self.timings[name])

    @property
    def verdict(self) -> str:
        """One sentence a user can act on."""
        size = self.float_bytes / max(self.packed_bytes, 1)
        if self.speedup > 1.05:
            return (
                f"{self.best_packed} runs {self.speedup:.2f}x as fast as {self.best_rival} "
                f"and its tensors take {size:.1f}x less memory."
            )
        if self.speedup >= 0.95:
            return (
                f"{self.best_packed} runs as fast as {self.best_rival}; worth it for its size, "
                f"{size:.1f}x less memory."
            )
        return (
            f"Not worth it for speed here: {self.best_packed} takes {1 / self.speedup:.2f}x the time of "
            f"{self.best_rival}. Its tensors take {size:.1f}x less memory."
        )

    def table(self) -> Table:
        """The comparison as a table for the terminal; what did not run, and conditions, below.

        `2e-05 off` in the notes is the difference from the eager network, as a share of its largest output.
        """
        below = [f"{name} not run: {reason}" for name, reason in self.not_run.items()]
        below += [f"{name}: {value}" for name, value in self.conditions.items()]
        table = Table(title="Latency", caption="\n".join(below), caption_justify="left")
        table.add_column("candidate", no_wrap=True)
        for heading in ("median ms", "quartiles", "min ms", "speed"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("notes")
        for name, timing in self.timings.items():
            low, high = timing.spread
            notes = [self.formats[name]] if name in self.formats else []
            if name in self.differences:
                gap = self.differences[name]
                notes.append("equals eager bit for bit" if gap == 0 else f"{gap:.0e} off")
            table.add_row(
                name, f"{timing.median:.2f}", f"{low:.2f}-{high:.2f}", f"{timing.min:.2f}",
                f"{self.speed(name):.2f}x", ", ".join(notes),
                style="bold" if name == self.best_packed else None,
            )  # fmt: skip
        return table

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Comparison:
        """The inverse of `to_dict`."""
        timings = {
            name: Timing(tuple(timing["samples"]), timing["calls"])
            for name, timing in data["timings_ms"].items()
        }
        fields = ("differences", "formats", "not_run", "float_bytes", "packed_bytes", "conditions")
        return cls(timings, **{name: data[name] for name in fields})

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "timings_ms": {
                name: {
                    "median": t.median, "min": t.min, "quartiles": list(t.spread), "calls": t.calls,
                    "samples": list(t.samples),
                }
                for name, t in self.timings.items()
            },
            "differences": dict(self.differences),
            "formats": dict(self.formats),
            "not_run": dict(self.not_run),
            "float_bytes": self.float_bytes,
            "packed_bytes": self.packed_bytes,
            "speedup": self.speedup,
            "verdict": self.verdict,
            "conditions": dict(self.conditions),
        }  # fmt: skip
