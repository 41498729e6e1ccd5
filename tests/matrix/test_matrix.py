"""Every smp architecture and encoder, all the way: plan, train, convert, verify, save, load, compile.

`make test` takes the pairs marked quick in pairs.txt, `make matrix` (MBU_MATRIX=all) every one, and notes what it
finds in docs/results/models.json (MBU_MATRIX_RESULTS).
"""

import json
import os
import time
import warnings
from collections import Counter
from pathlib import Path

import lightning as L
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from lightning_mbu import MBUQuantize, convert, load, save, verify

PAIRS = [
    line.split() for line in (Path(__file__).parent / "pairs.txt").read_text().splitlines() if line[:1] != "#"
]
CHOSEN = [p for p in PAIRS if os.environ.get("MBU_MATRIX") == "all" or "quick" in p]


class Segmenter(L.LightningModule):
    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model, self.size = model, size
        self.example_input_array = torch.zeros(1, 3, size, size)

    def training_step(self, batch, batch_idx):
        images, masks = batch
        return nn.functional.binary_cross_entropy_with_logits(self.model(images), masks)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train_dataloader(self):
        images = torch.randn(4, 3, self.size, self.size)
        masks = (images.mean(1, keepdim=True) > 0).float()
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, masks), batch_size=2)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("line", CHOSEN, ids=[p[0] for p in CHOSEN])
def test_pair(line, tmp_path):
    pair, size = line[0], int(line[1])
    start = time.perf_counter()
    architecture, encoder = pair.split("/")
    options = {"dynamic_img_size": True} if "vit" in encoder else {}
    model = getattr(smp, architecture)(encoder, encoder_weights=None, **options)
    module, quantizer = Segmenter(model, size), MBUQuantize()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.Trainer(
            accelerator="cpu", max_steps=2, callbacks=[quantizer], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        ).fit(module)  # fmt: skip
    plan = quantizer.plan
    warned = any("become one-bit, so that packing gains little" in str(w.message) for w in caught)
    assert warned == (plan.one_bit_share < 0.6)
    assert all(
        not torch.equal(before[f"{x.name}.weight"], model.get_submodule(x.name).weight)
        for x in plan.quantized
    )

    model.eval()
    images = torch.randn(2, 3, size, size)
    packed = convert(model, images)
    check = verify(model, packed, images)
    assert check.mismatches == 0 and check.at_rounding == 0, str(check)
    assert check.output_difference <= 1e-4
    other = torch.randn(1, 3, size + 32, size + 64)
    with torch.no_grad():
        found = packed(images)
        assert torch.allclose(packed(other), model(other), atol=1e-4)
        assert torch.equal(load(save(packed, tmp_path / "net.mbu"))(images), found)
        # Inductor takes half a minute for a network; for most, that torch.compile sees one whole graph must do.
        backend = "inductor" if "quick" in line else "aot_eager"
        compiled = torch.compile(packed, backend=backend, fullgraph=True)
        assert torch.allclose(compiled(images), found, atol=1e-4)
    torch.compiler.reset()
    _note(pair, {
        "size": size, "share": plan.one_bit_share, "layers": len(plan.quantized), "bits_out": sum(x.fused for x in packed.layers),
        "float": dict(Counter(x.reason for x in plan.layers if x.kind == "float")), "other": plan.other_macs,
        "macs": sum(x.macs for x in plan.layers), "bits": sum(x.bits for x in check.layers), "wrong": check.mismatches,
        "rounded": check.at_rounding, "difference": check.output_difference, "float_bytes": check.float_bytes,
        "packed_bytes": check.packed_bytes, "compiled": backend,
    })  # fmt: skip
    print(f"{pair}: {time.perf_counter() - start:.1f} s")


def _note(pair: str, facts: dict) -> None:
    """Adds one row to the results, where they are wanted."""
    if path := os.environ.get("MBU_MATRIX_RESULTS"):
        rows = json.loads(Path(path).read_text()) if Path(path).exists() else {}
        order = [p[0] for p in PAIRS]
        rows = {name: row for name, row in {**rows, pair: facts}.items() if name in order}
        Path(path).write_text(
            json.dumps({name: rows[name] for name in sorted(rows, key=order.index)}, indent=1) + "\n"
        )
