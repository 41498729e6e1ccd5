"""Exported networks: in this process, in a program without Python, in ONNX Runtime."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_mbu import convert, export, make_plan, prepare, save
from lightning_mbu.cli import main
from mbu_ops import load_package
from mbu_ops.backends import library_path

ROOT = Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent
SIZES = [(1, 64, 64), (3, 96, 160)]


class Network(nn.Module):
    """A fused chain, a shortcut, pooling, upsampling and a concat."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(64, 2, 1)
        self.down, self.deep, self.up = (nn.Conv2d(32, 32, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(3))
        self.join = nn.ConvTranspose2d(32, 32, 2, stride=2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = nn.functional.max_pool2d(torch.relu(self.norms[0](self.down(x))), 2)
        y = y + self.norms[1](self.deep(y))
        y = nn.functional.interpolate(self.norms[2](self.up(y)), scale_factor=2.0) + self.join(y)
        return self.head(torch.cat([y, x], 1))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = Network()
    prepare(model, make_plan(model, torch.zeros(1, 3, 64, 64)))
    with torch.no_grad():
        for norm in model.norms:
            norm.running_mean.normal_(0, 3)
            norm.running_var.uniform_(0.5, 30)
            norm.weight.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def packed(trained):
    return convert(trained, torch.zeros(1, 3, 64, 64))


@pytest.fixture(scope="module")
def package(packed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    save(packed, folder / "net.mbu")
    assert main(["export", str(folder / "net.mbu"), str(folder / "net.pt2"), "--size", "64"]) == 0
    return folder / "net.pt2"


def test_a_package_takes_any_batch_and_size(packed, package):
    network = load_package(package)
    for batch, height, width in SIZES:
        images = torch.randn(batch, 3, height, width)
        assert torch.allclose(network(images), packed(images), atol=1e-5)


def test_a_package_refuses_what_it_was_not_compiled_for(package):
    network = load_package(package)
    assert network.channels == 3 and network.sizes == ((64, 16384, 2),) * 2
    for shape, words in [
        ((1, 3, 66, 65), "the width is 65 pixels; this package takes 64 to 16384 in multiples of 2"),
        ((1, 3, 62, 64), "the height is 62 pixels"),
        ((1, 4, 64, 64), r"takes \[N, 3, H, W\]"),
        ((3, 64, 64), r"takes \[N, 3, H, W\]"),
    ]:
        with pytest.raises(ValueError, match=words):
            network(torch.zeros(shape))
    with pytest.raises(TypeError, match="Use x.float()"):
        network(torch.zeros(1, 3, 64, 64).double())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_program_without_python_computes_the_same(packed, package, tmp_path):
    program = tmp_path / "run_package"
    build = [
        "g++", "-std=c++20", "-O0", str(ROOT / "ops/examples/run_package.cpp"), "-o", str(program),
        f"-I{TORCH}/include", f"-I{TORCH}/include/torch/csrc/api/include", f"-L{TORCH}/lib",
        f"-Wl,-rpath,{TORCH}/lib", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl",
    ]  # fmt: skip
    subprocess.run(build, check=True, capture_output=True)
    images = torch.randn(2, 3, 96, 64)
    images.numpy().tofile(tmp_path / "input.f32")
    shape = [str(n) for n in images.shape]
    files = [program, package, library_path(), tmp_path / "input.f32"]
    run = [*map(str, files), *shape, str(tmp_path / "out")]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = torch.from_file(str(tmp_path / "out"), size=2 * 2 * 96 * 64).view(2, 2, 96, 64)
    assert torch.allclose(found, packed(images), atol=1e-5)
    run[-2] = "63"
    failed = subprocess.run(run, check=False, capture_output=True, text=True)
    assert failed.returncode == 1 and "the width is 63 pixels" in failed.stderr
    run[2] = str(tmp_path / "no.so")
    failed = subprocess.run(run, check=False, capture_output=True, text=True)
    assert failed.returncode == 1 and "the operations cannot be loaded" in failed.stderr


def test_a_package_without_the_operations_says_what_is_missing(package):
    code = f"import torch; torch._inductor.aoti_load_package({str(package)!r})(torch.zeros(1, 3, 64, 64))"
    command = [sys.executable, "-c", code]
    failed = subprocess.run(command, check=False, capture_output=True, text=True, cwd=package.parent)
    assert failed.returncode and "mbu::" in failed.stderr
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_package(package.parent / "other.pt2")


def test_onnx_computes_the_same(trained, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the dev extra is not installed")
    pytest.importorskip("onnxscript", reason="the dev extra is not installed")
    path = export(trained, torch.zeros(1, 3, 64, 64), tmp_path / "net.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, height, width in SIZES:
        images = torch.randn(batch, 3, height, width)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), trained(images), atol=1e-4)


def test_mistakes_say_the_way_out(trained, packed, tmp_path):
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"must end in .pt2 .* or .onnx"):
        export(packed, images, tmp_path / "net.bin")
    with pytest.raises(TypeError, match="Sequential has none. Call convert"):
        export(nn.Sequential(nn.Conv2d(3, 3, 1)), images, tmp_path / "net.pt2")
    with pytest.raises(ValueError, match="Export the trained model"):
        export(packed, images, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="at least 64x64 whose size is a multiple of 2"):
        export(packed, torch.zeros(1, 3, 31, 31), tmp_path / "net.pt2")
