import pytest
import torch
from torch import nn

from lightning_mbu import make_plan, prepare
from lightning_mbu.prepare import quantized_layers


def randomize(model: nn.Module) -> nn.Module:
    """Batch norms as training leaves them and worse: shifted, wide, negative and zero scales; moved thresholds."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 3)
                module.running_var.uniform_(0.5, 30)
                module.weight.normal_()
                module.bias.normal_()
                module.weight[0] = 0
        for _, layer in quantized_layers(model):
            if layer.learns_threshold:
                layer.threshold.normal_(0, 0.3)
    return model.eval()


@pytest.fixture
def quantized():
    def make(model: nn.Module, size: int = 32, **options) -> nn.Module:
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        example = torch.empty(1, first.in_channels, size, size)
        return randomize(prepare(model, make_plan(model, example, **options)))

    return make
