"""Every smp architecture and encoder, all the way: plan, train, convert, verify, save, load, compile, export.

`make test` takes the cases marked quick in pairs.txt, `make matrix` (MBU_MATRIX=all) every one, and notes what it
finds in docs/results/models.json (MBU_MATRIX_RESULTS) and docs/models.md.
"""

import json
import os
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import lightning as L
import pytest
import torch
from filelock import FileLock
from torch import nn

from lightning_mbu import MBUQuantize, convert, export, load, save, verify
from lightning_mbu.deploy.export import exported_program
from mbu_ops import load_package

from .cases import Case, read_cases
from .table import models_page

DOCS = Path(__file__).parents[2] / "docs"
CASES = read_cases()
ALL = os.environ.get("MBU_MATRIX") == "all"
CHOSEN = [case for case in CASES if case.quick or ALL]


class Segmenter(L.LightningModule):
    def __init__(self, model: nn.Module, case: Case):
        super().__init__()
        self.model, self.case = model, case
        self.example_input_array = torch.zeros(1, case.options.get("in_channels", 3), case.size, case.size)

    def training_step(self, batch, batch_idx):
        images, masks = batch
        losses = []
        for logits in _all(self.model(images)):  # a network with a classification head returns two tensors
            wanted = masks if logits.dim() == 4 else masks.mean((1, 2, 3)).unsqueeze(1)
            losses.append(
                nn.functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits).contiguous())
            )
        return torch.stack(losses).sum()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def train_dataloader(self):
        images = torch.randn(4, *self.example_input_array.shape[1:])
        masks = (images.mean(1, keepdim=True) > 0).float()
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, masks), batch_size=2)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_case(case, tmp_path):
    start = time.perf_counter()
    if "inplace" in case.options.values():
        pytest.importorskip("inplace_abn", reason="needs the package inplace_abn, which pip compiles")
    model = case.build()
    module, quantizer = Segmenter(model, case), MBUQuantize(**case.training)
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
    assert all(layer.reason for layer in plan.layers)
    linear = [layer.name for layer in plan.quantized if layer.role == "linear"]
    assert bool(linear) == case.training.get("linear", False)
    assert all(
        not torch.equal(before[f"{x.name}.weight"], model.get_submodule(x.name).weight)
        for x in plan.quantized
    )

    model.eval()
    shape = module.example_input_array.shape[1:]
    images = torch.randn(2, *shape)
    packed = convert(model, images)
    check = verify(model, packed, images)
    assert check.mismatches == 0, str(check)
    assert {layer.name for layer in check.layers} == {layer.name for layer in plan.quantized}
    # Where a bit flips at a rounding of float attention, what follows from it differs too; the row says so.
    assert check.at_rounding or check.output_difference <= 1e-4
    # Odd sizes where both networks take any, else multiples of what they halve.
    multiples = packed.input_spec.multiple > 1 or getattr(model, "requires_divisible_input_shape", False)
    step = 64 if multiples else 27
    other = torch.randn(1, shape[0], case.size + step, case.size + 2 * step)
    with torch.no_grad():
        found = _all(packed(images))
        again = verify(model, packed, other)
        assert again.mismatches == 0 and (again.at_rounding or again.output_difference <= 1e-4), str(again)
        assert all(map(torch.equal, _all(load(save(packed, tmp_path / "net.mbu"))(images)), found))
        # Inductor takes half a minute for a network; for most, that torch.compile sees one whole graph must do.
        backend = "inductor" if case.quick else "aot_eager"
        _close(torch.compile(packed, backend=backend, fullgraph=True)(images), found)
        program = exported_program(packed, images).module()
        _close(program(images), found)
        free = not any(n.op == "placeholder" and _fixed(n.meta["val"]) for n in program.graph.nodes)
        if free:
            whole = torch.randn(3, shape[0], case.size + 64, case.size + 128)
            _close(program(whole), packed(whole))
        if packaged := ALL and case.quick:
            package = load_package(export(packed, images, tmp_path / "net.pt2"))
            _close(package(images), found)
    _note(case, {
        "size": case.size, "share": plan.one_bit_share, "layers": len(plan.quantized),
        "bits_out": sum(x.fused for x in packed.layers), "bypassed": len(plan.bypassed) + len(plan.silenced),
        "float": dict(Counter(x.reason for x in plan.layers if x.kind == "float")), "other": plan.other_macs,
        "macs": sum(x.macs for x in plan.layers), "bits": sum(x.bits for x in check.layers), "wrong": check.mismatches,
        "rounded": check.at_rounding, "difference": check.output_difference, "float_bytes": check.float_bytes,
        "packed_bytes": check.packed_bytes, "multiple": packed.input_spec.multiple, "compiled": backend,
        "free_size": free, "packaged": packaged,
    })  # fmt: skip
    print(f"{case.name}: {time.perf_counter() - start:.1f} s")


def _all(output):
    return output if isinstance(output, tuple | list) else (output,)


def _close(found, expected):
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(_all(found), _all(expected), strict=True))


def _fixed(images) -> bool:
    return all(isinstance(pixels, int) for pixels in images.shape[2:])


def _note(case: Case, facts: dict) -> None:
    """Adds one row to the results, where they are wanted."""
    if path := os.environ.get("MBU_MATRIX_RESULTS"):
        with FileLock(Path(tempfile.gettempdir()) / "mbu-matrix.lock"):  # of several workers
            rows = json.loads(Path(path).read_text()) if Path(path).exists() else {}
            rows = {**rows, case.name: facts}
            known = {c.name: rows[c.name] for c in CASES if c.name in rows}
            Path(path).write_text(json.dumps(known, indent=1) + "\n")


def test_the_page_in_the_docs_shows_these_results():
    """Written anew by `make matrix`; otherwise what is there must be what the results say."""
    rows = json.loads((DOCS / "results/models.json").read_text())
    cases = [case.name for case in CASES]
    page = models_page(rows, cases)
    if ALL:
        (DOCS / "models.md").write_text(page)
    assert (DOCS / "models.md").read_text() == page, "run `make matrix`"
    assert list(rows) == [name for name in cases if name in rows], "run `make matrix`"
