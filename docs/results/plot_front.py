"""The plots of fronts, from the tables that `mbu study front` writes.

python docs/results/plot_front.py docs/results/front-*.csv      # matplotlib: extra `bench`
"""

import sys
from pathlib import Path

from lightning_mbu.explore.front_show import draw, read


def main(*tables: str) -> None:
    for table in map(Path, tables):
        draw(table.with_suffix(".svg"), *read(table))


if __name__ == "__main__":
    main(*sys.argv[1:])
