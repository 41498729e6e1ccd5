"""The report page in a browser, on a phone and in the dark; its plot, its layers, its curves from a log."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_mbu import convert, make_plan, prepare, verify, write_page
from lightning_mbu.comparison import Comparison
from lightning_mbu.models import MBUNet
from lightning_mbu.report import (
    ClassPictureRow,
    LayerBar,
    Pareto,
    ParetoPoint,
    PictureRow,
    ReportTable,
    write_report,
)
from lightning_mbu.scenes.page import read_points
from lightning_mbu.timing import Timing
from lightning_mbu.training_log import curves, phase_bands, read_log

EPOCHS = [
    {"train/loss": 2 / (k + 1), "val/dice": k / 12, "lr": 1e-3, "mbu/flip_ratio": 0.1, "mbu/phase": min(k // 4, 2)}
    for k in range(12)
]  # fmt: skip
POINTS = [
    ParetoPoint("float", 12.0, 0.88, False), ParetoPoint("float, narrow", 2.0, 0.80, False),
    ParetoPoint("small <b>", 1.5, 0.84, True), ParetoPoint("packed, wide", 4.0, 0.88, True),
]  # fmt: skip
PROBE = """<script>addEventListener("load", () => {
  const right = element => element.closest(".wide") ? 0 : element.getBoundingClientRect().right;
  parent.postMessage(JSON.stringify({
    width: innerWidth, scroll: document.documentElement.scrollWidth, page: getComputedStyle(document.body).backgroundColor,
    right: Math.max(...[...document.querySelectorAll("main *")].map(right)),
    broken: [...document.images].filter(image => !image.naturalWidth).length, images: document.images.length,
    bars: [...document.querySelectorAll(".bar i")].map(bar => bar.getBoundingClientRect().width),
    text: Math.min(...[...document.querySelectorAll("svg .tick")].map(tick => tick.getBoundingClientRect().height)),
  }), "*")});</script>"""
# A browser window is at least 500 pixels wide, a frame in it as narrow as a phone.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0">
<script>addEventListener("message", event => document.body.setAttribute("data-found", event.data))</script>
<iframe src="probed.html" width="{}" height="1900" style="border:0;display:block"></iframe>"""


@pytest.fixture
def page(tmp_path):
    """A page with everything on it, long names included."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 24, 3)).astype(np.uint8)
    mask = rng.random((16, 24)) > 0.5
    classes = rng.integers(0, 5, (16, 24)).astype(np.uint8)
    return write_report(
        tmp_path / "page.html", title="A title of many words that a phone has to break", summary=[("Dice", "0.9")] * 5,
        tables=[ReportTable("Latency", ["a network with a long name", *"abcdefgh"], [["x" * 40] + ["1.0 ms"] * 8])],
        curves=curves(EPOCHS), pictures=[PictureRow(image, mask, ~mask, mask, "one"), ClassPictureRow(image, classes, classes)],
        conditions={"instruction sets": "avx512_vpopcntdq, " * 12, "threads": 1}, pareto=Pareto(POINTS, "Dice"),
        layers=[LayerBar("down1.conv1", "masked", 0.5, 2000, "bits"), LayerBar("down2.conv1", "binary", 0.0, 1000, "float")],
    )  # fmt: skip


def browse(page, tmp_path, width, dark):
    """What a headless Chromium measures on the page, and its screenshot as an array."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: apt-get install chromium")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</main>", f"</main>{PROBE}"))
    outer = tmp_path / "outer.html"
    outer.write_text(FRAME.format(width))
    common = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={tmp_path}/profile", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1300,1900", "--virtual-time-budget=2000",
    ]  # fmt: skip
    shown = subprocess.run(
        [*common, "--dump-dom", outer], capture_output=True, text=True, timeout=300, check=True
    )
    picture = tmp_path / "shot.png"
    subprocess.run([*common, f"--screenshot={picture}", outer], capture_output=True, timeout=300, check=True)
    found = re.search(r'data-found="([^"]+)"', shown.stdout)
    assert found, shown.stderr[-1000:]
    return json.loads(found[1].replace("&quot;", '"')), np.asarray(Image.open(picture).convert("RGB"))


@pytest.mark.parametrize("width, dark", [(390, True), (1200, False)], ids=["phone-dark", "desktop-light"])
def test_in_a_browser(page, tmp_path, width, dark):
    found, picture = browse(page, tmp_path, width, dark)
    assert found["width"] == width
    assert found["scroll"] == width and found["right"] <= width, "something reaches beyond the screen"
    assert found["images"] == 8 and not found["broken"]
    assert found["page"] == ("rgb(15, 20, 25)" if dark else "rgb(246, 247, 249)")
    assert picture[5, 5].tolist() == ([15, 20, 25] if dark else [246, 247, 249])
    zeros, large, small = found["bars"]
    assert large == pytest.approx(2 * small, rel=0.1) and 0 < zeros and found["text"] >= 10
    assert len(np.unique(picture[:, :width].reshape(-1, 3), axis=0)) > 200


def test_the_front_holds_what_nothing_else_beats():
    plot = Pareto(POINTS, "Dice")
    assert [point.name for point in plot.front] == ["small <b>", "packed, wide"]
    with pytest.raises(ValueError, match="at least one"):
        Pareto([], "Dice")
    with pytest.raises(ValueError, match="a time above 0"):
        Pareto([ParetoPoint("x", 0.0, 0.5, True)], "Dice")


def test_points_and_layers_are_on_the_page(page):
    text = page.read_text()
    assert "small &lt;b&gt;" in text and "small <b>" not in text
    assert text.count('<g class="point one-bit">') == 2 == text.count('<g class="point float">')
    assert text.count("(front)") == 2 and "--share:0.500" in text and "wrong class" in text
    with pytest.raises(ValueError, match=r"zeros=1.5 of layer 'a'"):
        LayerBar("a", "masked", 1.5, 1, "bits")


def test_points_come_from_other_results(tmp_path):
    times = {"float compiled": Timing((9.0,)), "packed compiled": Timing((4.0,))}
    speed = Comparison(times, {}, {}, {}, 10, 1, {}).to_dict()
    report, study = tmp_path / "wide.json", tmp_path / "pareto-nuclei.json"
    report.write_text(json.dumps({"dice": 0.9, "speed": speed}))
    study.write_text(
        json.dumps({"runs": {"float": {"ms": 5.0, "test/dice": 0.8}, "4": {"ms": 2.0, "test/dice": 0.7}}})
    )
    assert read_points(report, "dice") == [ParetoPoint("wide", 4.0, 0.9, True)]
    assert [(p.ms, p.one_bit) for p in read_points(study, "dice")] == [(5.0, False), (2.0, True)]
    report.write_text("[]")
    with pytest.raises(ValueError, match="neither the JSON of mbu report nor"):
        read_points(report, "dice")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_points(tmp_path / "none.json", "dice")


def test_log_of_lightning(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,lr,mbu/phase,train/loss,val/dice,val_loss\n"
        "0,9,,,,0.1,0.7\n0,9,0.01,0.0,1.5,,\n1,19,,,,0.3,0.6\n1,19,0.005,2.0,1.0,,\n"
    )
    epochs = read_log(path)
    assert epochs == [
        {"lr": 0.01, "mbu/phase": 0.0, "train/loss": 1.5, "val/dice": 0.1, "val_loss": 0.7},
        {"lr": 0.005, "mbu/phase": 2.0, "train/loss": 1.0, "val/dice": 0.3, "val_loss": 0.6},
    ]
    assert [(band.label, band.start, band.end) for band in phase_bands(epochs)] == [
        ("float", 0, 1),
        ("quantized", 1, 2),
    ]
    charts = {curve.title: set(curve.series) for curve in curves(epochs)}
    assert charts["Loss"] == {"train/loss", "val_loss"} and charts["Scores"] == {"val/dice"}
    assert charts["Learning rate"] == {"lr"} and len(charts) == 3
    for text, words in (("a,b\n1,2\n", "no metrics.csv"), ("epoch,step\n", "holds no epoch")):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_log(path)
    with pytest.raises(FileNotFoundError, match="CSVLogger"):
        read_log(tmp_path / "none.csv")


def test_page_of_any_network(tmp_path):
    torch.manual_seed(0)
    images, masks = torch.randn(7, 3, 32, 32), torch.rand(7, 1, 32, 32).round()
    model = MBUNet(width=8).eval()
    prepare(model, make_plan(model, images[:1]))
    packed = convert(model, images[:1])
    check = verify(model, packed, images)
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train/loss,mbu/phase\n0,1,2.0,0\n1,2,1.0,2\n")
    page = write_page(
        tmp_path / "net.html", packed, check, batch=(images, masks), scores={"val/dice": 0.5}, log=log
    )
    text = page.read_text()
    assert "<dt>val/dice</dt><dd>0.500</dd>" in text and "<dt>wrong bits</dt><dd>0</dd>" in text
    assert "train/loss" in text and "<dt>epochs</dt><dd>2</dd>" in text and text.count("<img") == 5 * 3
    assert all(layer.name in text for layer in check.layers) and len(check.layers) > 4
    with pytest.raises(FileNotFoundError, match="there is no log"):
        write_page(tmp_path / "none.html", packed, check, log=tmp_path / "none.csv")
    assert not (tmp_path / "none.html").exists()
    assert "<h2>Training</h2>" not in write_page(tmp_path / "bare.html", packed, check).read_text()


def test_pictures_of_classes_need_class_numbers():
    with pytest.raises(ValueError, match=r"classes of picture 'p' is int64 \[2, 2\]; expected uint8"):
        ClassPictureRow(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), int), np.zeros((2, 2), np.uint8), "p")
