import pytest
import torch

from lightning_mbu import make_plan, prepare
from lightning_mbu.models import BiSegUNet, bisegunet_512, bisegunet_1024
from lightning_mbu.models.paper_sizes import PAPER, STAGES, count, one_bit_layers, stages
from lightning_mbu.operations import count_operations
from lightning_mbu.prepare import quantized_layers

SMALL = {"width": 16, "classes": 5}


VARIANTS = {
    "no blocks": {"capacity_blocks": 0},
    "block at the output": {"capacity_blocks": 5},
    "blocks at chosen levels": {"capacity_blocks": [1, 4]},
    "half resolution": {"stem_stride": 2},
    "half resolution, block at the output": {"stem_stride": 2, "capacity_blocks": 5, "groups": 2},
    "no attention": {"channel_attention": "none"},
    "se": {"channel_attention": "se"},
    "cbam": {"channel_attention": "cbam"},
    "without binary": {"branches": ("dilated", "grouped")},
    "without dilated": {"branches": ("binary", "grouped")},
    "without grouped": {"branches": ("binary", "dilated")},
    "shortcuts": {"shortcuts": True},
    "shortcuts at the deep levels": {"shortcuts": [3, 4]},
    "shortcuts, where channels fit": {
        "shortcuts": True,
        "branches": ("binary", "dilated"),
        "capacity_blocks": 5,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_train(name):
    model = BiSegUNet(**SMALL, **VARIANTS[name])
    logits = model(torch.randn(2, 3, 64, 32))
    assert logits.shape == (2, 5, 64, 32)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    "count, places", [(0, []), (1, [4]), (2, [3, 4]), (5, [0, 1, 2, 3, 4]), ([1, 4], [1, 4])]
)
def test_number_and_place_of_blocks(count, places):
    model = BiSegUNet(**SMALL, capacity_blocks=count)
    assert [level for level in range(5) if getattr(model, f"capacity{level}") is not None] == places


def test_plan_leaves_float_what_the_paper_does():
    model = BiSegUNet(width=32, classes=5)
    # Groups of the first block have 4 channels at this width, the image has 3.
    plan = make_plan(model, torch.empty(1, 3, 64, 64), masked="none", min_channels=4)
    kinds = {layer.name: layer.kind for layer in plan.layers}
    assert {name for name, kind in kinds.items() if kind == "binary"} == set(one_bit_layers(model))
    assert all(kinds[name] == "float" for name in kinds if name.startswith(("gateway", "head")))
    roles = {layer.name: layer.role for layer in plan.layers}
    assert roles["encoder2.conv"] == "encoder" and roles["decoder2.fusion.unit.conv"] == "decoder"


def test_binarizers_behind_channel_attention_learn_their_thresholds():
    model = BiSegUNet(**SMALL)
    layers = dict(quantized_layers(prepare(model, make_plan(model, torch.empty(1, 3, 64, 64)))))
    assert layers["decoder1.fusion.unit.conv"].learns_threshold
    assert layers["aspp.rates.0.conv"].learns_threshold
    assert layers["encoder1.conv"].absorbs == "relu" and not layers["encoder1.conv"].learns_threshold


def test_logits_do_not_depend_on_other_images_in_the_batch():
    model = BiSegUNet(**SMALL).eval()
    x = torch.randn(3, 3, 32, 48)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "size, make, near", [((512, 1024), bisegunet_512, 0.07), ((1024, 2048), bisegunet_1024, 0.45)]
)
def test_sizes_of_table_3(size, make, near):
    model = make()
    settings = {
        "width": model.head.in_channels, "stem_stride": model.stem_stride,
        "capacity_blocks": sum(b is not None for b in model._blocks()), "groups": model.capacity4.grouped.conv.groups,
    }  # fmt: skip
    for found, wanted in zip(count(settings, size), PAPER[size], strict=True):
        assert abs(found / wanted - 1) < near


def test_stages_of_table_1():
    found = stages(width=128, capacity_blocks=5, classes=7)
    assert {name: found[name] for _, name, *_ in STAGES} == {
        name: (height, channels or 7) for _, name, height, channels in STAGES
    }


def test_operations_of_a_prepared_network_add_up():
    model = BiSegUNet(**SMALL)
    size = (1, 3, 64, 64)
    whole = count_operations(model, size, [])
    plan = make_plan(model, torch.empty(size))
    prepare(model, plan)
    split = count_operations(model, size)
    assert whole.one_bit == 0 and split.one_bit == 2 * sum(x.macs for x in plan.quantized)
    assert split.float_flops + split.one_bit == whole.float_flops
    assert split.one_bit_parameters == sum(x.weights for x in plan.quantized)
    assert split.flops == split.float_flops + split.one_bit / 64
    with pytest.raises(ValueError, match="'nothing'"):
        count_operations(model, size, ["nothing"])
    with pytest.raises(ValueError, match="does not run on an input of shape"):
        count_operations(model, (1, 4, 64, 64))


@pytest.mark.parametrize("options, words", [
    ({"width": 40}, r"width=40 must be a multiple of 4 \* groups = 16.*nearest is 32"),
    ({"classes": 0}, "classes=0"), ({"stem_stride": 3}, "stem_stride=3"),
    ({"capacity_blocks": 6}, "capacity_blocks=6 must be 0 to 4"), ({"capacity_blocks": [1, 5]}, r"\[1, 5\] must be"),
    ({"capacity_blocks": [1, 1]}, "each once, as"),
    ({"branches": ("binary", "deformed")}, r"\['binary', 'deformed'\] must name"),
    ({"shortcuts": [5]}, r"shortcuts=\[5\] must be True, False"), ({"branches": ()}, "one or more"), ({"channel_attention": "eca"}, "'eca' is unknown"),
])  # fmt: skip
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        BiSegUNet(**{**SMALL, **options})


def test_wrong_size():
    with pytest.raises(ValueError, match="40x48; height and width must be multiples of 16. Pad"):
        BiSegUNet(**SMALL)(torch.zeros(1, 3, 40, 48))
