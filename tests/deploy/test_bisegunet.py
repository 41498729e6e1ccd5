import pytest
import torch

from lightning_mbu import convert, load, save, verify
from lightning_mbu.deploy.graph import aten, is_call
from lightning_mbu.models import BiSegUNet
from lightning_mbu.prepare import quantized_layers

SMALL = {"width": 16, "classes": 5}

VARIANTS = {
    "paper": {},
    "half resolution, block at the output": {"stem_stride": 2, "capacity_blocks": 5, "groups": 2},
    "two blocks without attention": {"capacity_blocks": 2, "channel_attention": "none"},
    "blocks at chosen levels": {"capacity_blocks": [0, 2]},
    "se": {"channel_attention": "se"},
    "cbam": {"channel_attention": "cbam"},
    "shortcuts": {"shortcuts": True, "capacity_blocks": 5},
    "shortcuts at the deep levels": {"shortcuts": [3, 4]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_pack_exactly(name, quantized):
    model = BiSegUNet(**SMALL, **VARIANTS[name])
    x = torch.randn(2, 3, 64, 96)
    model = quantized(model, size=64, masked="none", min_channels=4)
    packed = convert(model, x[:1])
    result = verify(model, packed, x)
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    assert result.output_difference < 1e-4
    assert packed(x).shape == (2, 5, 64, 96) and packed.input_spec.multiple == 16 * model.stem_stride


@pytest.mark.parametrize("name", ["paper", "shortcuts"])
def test_two_thresholds_pack_exactly(name, quantized):
    model = quantized(BiSegUNet(**SMALL, **VARIANTS[name]), size=64, masked="none", min_channels=4, planes=2)
    x = torch.randn(2, 3, 64, 96)
    packed = convert(model, x[:1])
    result = verify(model, packed, x)
    assert result.mismatches == 0 and result.at_rounding == 0, str(result)
    assert result.output_difference < 1e-4
    planes = [layer.planes for _, layer in quantized_layers(model)]
    assert planes.count(2) > len(planes) / 2


def test_saved_and_loaded(quantized, tmp_path):
    packed = convert(quantized(BiSegUNet(**SMALL), size=64, min_channels=4), torch.randn(1, 3, 64, 64))
    x = torch.randn(1, 3, 32, 96)
    assert torch.equal(load(save(packed, tmp_path / "net.mbu"))(x), packed(x))


def test_shortcuts_store_no_concat(quantized):
    model = quantized(BiSegUNet(**SMALL, shortcuts=True), size=64, min_channels=4)
    nodes = convert(model, torch.randn(1, 3, 64, 64)).graph_module.graph.nodes
    concats = [node for node in nodes if is_call(node, aten.cat.default)]
    maps = [node for node in concats if not all(is_call(part, aten.mean.dim) for part in node.args[0])]
    assert len(concats) == 5 and len(maps) == 1  # what self-attention reads
