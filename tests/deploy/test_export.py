"""Exported networks in ONNX Runtime."""

import pytest
import torch
from torch import nn

from lightning_mbu import convert, export, make_plan, prepare

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


def test_onnx_computes_the_same(trained, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the bench extra is not installed")
    pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
    path = export(trained, torch.zeros(1, 3, 64, 64), tmp_path / "net.onnx")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, height, width in SIZES:
        images = torch.randn(batch, 3, height, width)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), trained(images), atol=1e-4)


def test_mistakes_say_the_way_out(trained, packed, tmp_path):
    images = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="must end in .onnx"):
        export(packed, images, tmp_path / "net.bin")
    with pytest.raises(TypeError, match="Sequential has none. Train it"):
        export(nn.Sequential(nn.Conv2d(3, 3, 1)), images, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="Export the trained model"):
        export(packed, images, tmp_path / "net.onnx")
