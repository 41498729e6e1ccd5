"""Float networks as the start of masked-binary ones, from wherever their weights lie."""

import lightning as L
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn

from lightning_mbu import MBUQuantize, init_from, make_plan, prepare
from lightning_mbu.models.unet import DoubleConv, Up
from lightning_mbu.prepare import quantized_layers


class SmallUNet(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, width, 3, padding=1), nn.MaxPool2d(2)
        self.down, self.up = DoubleConv(width, width, True), Up(width, width, False)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.up(self.down(self.pool(x)), x))


class Trained(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = SmallUNet()


IMAGES = torch.zeros(1, 3, 16, 16)


def prepared(model=None, **options):
    model = model or SmallUNet()
    return prepare(model, make_plan(model, IMAGES, **options))


def as_lightning(model, path):
    module = Trained()
    module.net.load_state_dict(model.state_dict())
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, path / "last.ckpt")
    return path / "last.ckpt"


def as_safetensors(model, path):
    safetensors.torch.save_file(model.state_dict(), path / "weights.safetensors")
    return str(path / "weights.safetensors")


def as_old_file(model, path):
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, path / "old.pt")
    return path / "old.pt"


SOURCES = {
    "state dict": lambda model, path: model.state_dict(),
    "compiled": lambda model, path: torch.compile(model, backend="eager").state_dict(),
    "data-parallel": lambda model, path: nn.DataParallel(model).state_dict(),
    "Lightning checkpoint": as_lightning,
    "safetensors": as_safetensors,
    "old file": as_old_file,
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("prepare_first", [False, True])
def test_every_source_is_read(name, prepare_first, tmp_path):
    model = SmallUNet()
    options = {"planes": 2, "shortcuts": True, "shift": True}
    expected = prepared(SmallUNet(), **options)
    expected.load_state_dict(model.state_dict(), strict=False)
    for _, layer in quantized_layers(expected):
        layer.reset_weights()
    start = prepared(**options) if prepare_first else SmallUNet()
    assert init_from(start, SOURCES[name](model, tmp_path)) is start
    if not prepare_first:
        prepare(start, make_plan(start, IMAGES, **options))
    found = start.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.state_dict().items())


def test_a_folder_of_smp_and_a_part(tmp_path):
    options = {"encoder_weights": None, "encoder_depth": 3, "decoder_channels": (32, 16, 16)}
    model = smp.Unet("resnet18", **options)
    model.save_pretrained(tmp_path)
    start = init_from(prepared(smp.Unet("resnet18", **options)), tmp_path)
    found = start.state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    other = smp.Linknet("resnet18", encoder_weights=None, encoder_depth=3)
    init_from(other.encoder, tmp_path)
    assert torch.equal(other.encoder.layer1[0].conv1.weight, model.encoder.layer1[0].conv1.weight)


def test_what_does_not_fit_changes_nothing(tmp_path):
    start = prepared()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    (tmp_path / "empty").mkdir()
    torch.save([1, 2], tmp_path / "list.pt")
    state = SmallUNet().state_dict()
    short = {name: value for name, value in state.items() if not name.startswith("head.")}
    for source, error, words in (
        (SmallUNet(16).state_dict(), ValueError, r"stem.weight \(16, 3, 3, 3\) instead of \(8, 3, 3, 3\)"),
        (short, ValueError, "2 of .* parameters are not there: head.weight, head.bias"),
        ({"epoch": 3}, ValueError, "this holds no state dict"),
        (tmp_path / "list.pt", ValueError, "list.pt holds no state dict"),
        (tmp_path / "empty", FileNotFoundError, "there are no weights at"),
        (tmp_path / "nothing.pt", FileNotFoundError, "there are no weights at"),
    ):
        with pytest.raises(error, match=words):
            init_from(start, source)
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())


class Fitted(L.LightningModule):
    """Learns nothing: what it ends with is what it began with."""

    def __init__(self):
        super().__init__()
        self.model = SmallUNet()
        self.example_input_array = IMAGES

    def training_step(self, batch, batch_idx):
        return self.model(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.randn(4, 3, 16, 16)), batch_size=2
        )


def parameters_of(model):
    return {name: value.clone() for name, value in model.named_parameters()}


def fit(module, tmp_path, *callbacks, **options):
    L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), max_epochs=1,
        default_root_dir=tmp_path, callbacks=list(callbacks),
    ).fit(module, **options)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path")  # without the average this time
def test_the_callback_starts_from_a_file(tmp_path):
    model = SmallUNet()
    path = str(as_lightning(model, tmp_path))
    expected = parameters_of(model)
    module, quantizer = Fitted(), MBUQuantize(init_from=path)
    saving = ModelCheckpoint(tmp_path / "run", filename="end")
    average = EMAWeightAveraging(decay=0.5)
    fit(module, tmp_path, average, quantizer, saving)
    found = parameters_of(module.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(layer.scale, layer._fitted_scale()) for _, layer in quantized_layers(module))

    # Once only: a second fit goes on with what the first has learned, and a checkpoint stands above the file.
    with torch.no_grad():
        module.model.stem.weight.add_(1)
    fit(module, tmp_path, quantizer)
    assert torch.equal(module.model.stem.weight, found["stem.weight"] + 1)
    torch.save({"state_dict": SmallUNet().state_dict()}, path)
    fresh = Fitted()
    fit(fresh, tmp_path, MBUQuantize(init_from=path), ckpt_path=tmp_path / "run/end.ckpt", weights_only=True)
    resumed = parameters_of(fresh.model)
    assert all(torch.equal(resumed[name], value) for name, value in found.items())


def test_a_file_that_is_not_there_stops_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no weights at float.ckpt"):
        fit(Fitted(), tmp_path, MBUQuantize(init_from="float.ckpt"))


def test_a_weight_that_two_layers_share_is_held_once(tmp_path):
    def shared():
        model = SmallUNet()
        model.down.conv2.weight = model.down.conv1.weight
        return model

    model, start = shared(), prepared(shared())
    state = {name: value for name, value in model.state_dict().items() if name != "down.conv2.weight"}
    init_from(start, state)
    assert start.down.conv2.weight is start.down.conv1.weight
    assert torch.equal(start.down.conv2.weight, model.down.conv1.weight)
