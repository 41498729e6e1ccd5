"""Loss and scores through the phases of a training, from the table that Lightning's CSVLogger writes.

python docs/results/plot_log.py lightning_logs/version_0/metrics.csv curves.svg      # matplotlib: extra `bench`
"""

import sys

import matplotlib
from matplotlib.figure import Figure

from lightning_mbu.training_log import curves, read_log

SHADES = ("#ffffff", "#f2f2f2", "#e0e0e0", "#ececec")


def main(log: str, picture: str) -> None:
    found = curves(read_log(log))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mbu", "font.size": 9}):
        figure = Figure(figsize=(8, 2.6 * len(found)), layout="constrained")
        for index, curve in enumerate(found):
            axes = figure.add_subplot(len(found), 1, index + 1, title=curve.title, xlabel=curve.x_label)
            for shade, phase in zip(SHADES, curve.phases, strict=False):
                axes.axvspan(phase.start, phase.end, color=shade, label=None, zorder=0)
                axes.text(phase.start, 1, f" {phase.label}", transform=axes.get_xaxis_transform(), va="top")
            for name, points in curve.series.items():
                axes.plot(*zip(*points, strict=True), label=name)
            axes.legend(loc="center left", frameon=False)
        figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
