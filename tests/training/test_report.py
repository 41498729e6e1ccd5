"""The report page is complete, self-contained and safe; its drawings are right to the pixel."""

from __future__ import annotations

import base64
import io
import re
import stat
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_mbu.drawing import curve_svg, data_uri, dice, errors_image, png, ticks
from lightning_mbu.report import Curve, PhaseBand, PictureRow, ReportTable, write_report

VOID = {"meta", "link", "img", "line", "rect", "polyline", "path"}


class Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    mask, packed = rng.random((8, 8)) > 0.5, rng.random((8, 8)) > 0.5
    phases = [PhaseBand("float", 0, 4), PhaseBand("incremental", 4, 9), PhaseBand("fully binary", 9, 10)]
    return {
        "title": "A <b>bold</b> & 'quoted' title",
        "summary": [("Dice", "0.9"), ("Evil <script>", "</dl><script>alert(1)</script>")],
        "tables": [
            ReportTable("Latency <ms>", ["name", "ms"], [["a<b", "1.0"], ["c", "20.5"]], note="a & b")
        ],
        "curves": [Curve("Dice <val>", {"val & test": [(e, e / 10) for e in range(11)]}, phases=phases)],
        "pictures": [PictureRow(image, mask, packed, mask, name="<one>"), PictureRow(image, mask, packed)],
        "conditions": {"threads": 1, "processor": "X<Y>"},
    }


@pytest.fixture
def page(tmp_path):
    return write_report(tmp_path / "new" / "report.html", **content()).read_text(encoding="utf-8")


def test_page_is_well_formed_and_self_contained(page):
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert not {"script", "iframe", "object"} & set(parser.seen)
    # Neither the network nor another file: addresses are data, styles import nothing.
    assert "http" not in page and "@import" not in page and "url(" not in page
    assert set(re.findall(r'(?:src|href)="([^:"]*):', page)) == {"data"}
    assert (
        "prefers-color-scheme: dark" in page and "width=device-width" in page and "max-width: 40rem" in page
    )


def test_text_is_escaped(page):
    for raw in ("<script>", "<b>bold", "Dice <val>", "a<b", "<one>", "X<Y>", "Latency <ms>"):
        assert raw not in page
    for safe in (
        "&lt;script&gt;alert(1)",
        "&lt;b&gt;bold",
        "Dice &lt;val&gt;",
        "val &amp; test",
        "X&lt;Y&gt;",
    ):
        assert safe in page


def test_page_holds_everything(page):
    for words in (
        "Training",
        "Results",
        "Pictures",
        "Conditions",
        "false positive",
        "false negative",
        "threads",
    ):
        assert words in page
    assert page.count('<g class="phase ') == 3 and "fully binary</title>" in page
    assert "(epoch 9 to 10)" in page  # phases are also listed, for bands too narrow for their names
    assert page.count("data:image/png") == 4 + 3  # the second row has no float prediction
    assert page.count("Dice 1.000") == 1
    assert page.count("class=number>ms") == 1 and "<th>name" in page


def test_empty_sections_are_left_out(tmp_path):
    page = write_report(tmp_path / "r.html", title="T", summary=[]).read_text(encoding="utf-8")
    assert "<h2>" not in page and "<h1>T</h1>" in page


def test_write_is_atomic(tmp_path, monkeypatch):
    path = write_report(tmp_path / "r.html", title="first", summary=[])
    assert path.is_absolute() and stat.S_IMODE(path.stat().st_mode) & 0o044

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, title="second", summary=[])
    assert "first" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


def test_png_reads_back():
    image = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)
    assert base64.b64decode(data_uri(image).partition(",")[2]) == png(image)
    with pytest.raises(ValueError, match=r"float64 \[2, 2\]; expected uint8"):
        png(np.zeros((2, 2)))


def test_errors_and_dice():
    prediction, mask = np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]])
    assert dice(prediction, mask) == 0.5 and dice(mask, mask) == 1.0
    assert dice(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0
    colours = errors_image(prediction, mask).reshape(4, 3)
    assert len({tuple(colour) for colour in colours}) == 4
    assert tuple(colours[1]) == (230, 120, 0) and tuple(colours[2]) == (86, 180, 233)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.52, 0.93, [0.6, 0.7, 0.8, 0.9]),
        (0, 24, [0, 5, 10, 15, 20]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == expected


def test_curve_skips_what_is_not_finite_and_keeps_inside():
    svg = curve_svg(Curve("c", {"a": [(0, 1.0), (1, float("nan")), (2, 3.0)], "none yet": []}))
    assert svg.count("<circle") == 2 and "nan" not in svg
    points = [float(number) for number in re.findall(r'points="([^"]+)"', svg)[0].replace(",", " ").split()]
    assert all(0 <= value <= 720 for value in points)
    epochs = curve_svg(Curve("c", {"b": [(1, 0.5), (4, 1.0)]}), names=["a", "b"])
    assert 'class="line line-2"' in epochs and re.findall(r'class="x tick"[^>]*>([^<]+)<', epochs) == list(
        "1234"
    )
    assert "<svg" in curve_svg(Curve("one point, flat", {"a": [(5, 0.0)]}))
    with pytest.raises(ValueError, match="'c' has no finite point"):
        curve_svg(Curve("c", {"a": [(0, float("inf"))]}))


def test_wrong_rows_and_pictures():
    with pytest.raises(ValueError, match=r"Row 1 of table 't' has 1 cells \(x\); expected 2"):
        ReportTable("t", ["a", "b"], [["1", "2"], ["x"]])
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool)
    with pytest.raises(
        ValueError, match=r"packed_prediction of picture 'p' is float32 \[4, 4\]; expected bool"
    ):
        PictureRow(image, mask, np.zeros((4, 4), np.float32), name="p")
