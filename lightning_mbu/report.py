"""One self-contained HTML page about a run: what came out, how training went, what the pictures look like.

The page needs no network and no script: styles are inline, charts are inline SVG, images are PNG in base64.
It reads well in light and dark and on a phone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

from .atomic import write_atomically
from .drawing import COLOURS, Curve, PhaseBand, curve_svg
from .report_layers import LayerBar, layers_html
from .report_pareto import Pareto, ParetoPoint, pareto_html
from .report_pictures import ClassPictureRow, PictureRow, pictures_html

__all__ = [
    "ClassPictureRow",
    "Curve",
    "LayerBar",
    "Pareto",
    "ParetoPoint",
    "PhaseBand",
    "PictureRow",
    "ReportTable",
    "render",
    "write_report",
]

NUMBER = re.compile(r"[-+~<>≈±]?\s*\d|-$|–$|—$")


@dataclass(frozen=True)
class ReportTable:
    """A table of text; columns whose cells are all numbers (with or without unit) are aligned right.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Row {index} of table {self.title!r} has {len(row)} cells ({', '.join(map(str, row))}); "
                    f"expected {len(self.columns)}, one for each of {', '.join(self.columns)}."
                )


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: Sequence[tuple[str, str]],
    tables: Sequence[ReportTable] = (),
    curves: Sequence[Curve] = (),
    pictures: Sequence[PictureRow | ClassPictureRow] = (),
    conditions: Mapping[str, object] | None = None,
    pareto: Pareto | None = None,
    layers: Sequence[LayerBar] = (),
) -> Path:
    """Write the page; readers see the old file or the complete new one, never half of one.

    Args:
        path: of the HTML file; its folder is made where it is missing.
        title: heading of the page.
        summary: (name, value) of the few numbers that matter, in order.
        tables, pareto, pictures, curves, layers: the sections, in this order.
        conditions: what the numbers depend on: machine, versions, settings.

    Returns:
        The absolute path of the page.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render(title, summary, tables, curves, pictures, conditions or {}, pareto, layers)
    return write_atomically(path, page.encode())


def render(
    title: str,
    summary: Sequence[tuple[str, str]],
    tables: Sequence[ReportTable],
    curves: Sequence[Curve],
    pictures: Sequence[PictureRow | ClassPictureRow],
    conditions: Mapping[str, object],
    pareto: Pareto | None = None,
    layers: Sequence[LayerBar] = (),
) -> str:
    """The page as text; arguments as in `write_report`."""
    style = resources.files("lightning_mbu").joinpath("report_style.css").read_text(encoding="utf-8")
    cards = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in summary)
    sections = []
    if tables:
        sections.append("<section><h2>Results</h2>" + "".join(map(_table, tables)) + "</section>")
    if pareto is not None:
        sections.append(pareto_html(pareto))
    if pictures:
        sections.append(pictures_html(pictures))
    if curves:
        names = list(dict.fromkeys(name for curve in curves for name in curve.series))
        charts = "".join(_curve(curve, names) for curve in curves)
        sections.append(f"<section><h2>Training</h2>{charts}</section>")
    if layers:
        sections.append(layers_html(layers))
    if conditions:
        items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in conditions.items())
        sections.append(f'<section><h2>Conditions</h2><dl class="conditions">{items}</dl></section>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        f'<header><h1>{escape(title)}</h1><dl class="cards">{cards}</dl></header>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _curve(curve: Curve, names: list[str]) -> str:
    """A chart and its legend; a name has the same colour in every chart of the page."""
    legend = "".join(
        f'<li class="line-{names.index(name) % COLOURS + 1}">{escape(name)}</li>' for name in curve.series
    )
    phases = "".join(
        f'<li class="phase-{index % 3 + 1}"><b>{index + 1}</b> {escape(phase.label)} '
        f"({escape(curve.x_label)} {phase.start:g} to {phase.end:g})</li>"
        for index, phase in enumerate(curve.phases)
    )
    heading = escape(curve.title) + (f" <small>{escape(curve.y_label)}</small>" if curve.y_label else "")
    return (
        f'<figure class="curve"><h3>{heading}</h3><ul class="lines">{legend}</ul>{curve_svg(curve, names)}'
        + (f'<ul class="phases">{phases}</ul>' if phases else "")
        + (f"<figcaption>{escape(curve.note)}</figcaption>" if curve.note else "")
        + "</figure>"
    )


def _table(table: ReportTable) -> str:
    numeric = [
        bool(table.rows) and all(NUMBER.match(str(row[column]).strip()) for row in table.rows)
        for column in range(len(table.columns))
    ]

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if right else ''}>{escape(str(cell))}</{tag}>"
            for cell, right in zip(row, numeric, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3><div class="wide"><table>'
        f"<thead><tr>{cells('th', table.columns)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        + (f"<p class=note>{escape(table.note)}</p>" if table.note else "")
    )
