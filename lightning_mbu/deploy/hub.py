"""Packed models on the Hugging Face Hub and in local folders, as segmentation_models_pytorch does it.

A folder holds `model.mbu` (see `files.py`), `config.json` (what the model accepts) and `README.md`, the model card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

from ..atomic import write_atomically
from ..cards import TAGS, card_data, metrics_text, plan_table

if TYPE_CHECKING:
    from .packed import PackedModel

FILE_NAME = "model.mbu"

_CARD = """---
{{ card_data }}
---
# {{ title }}

A masked-binary segmentation network, packed into bits by lightning-mbu: {{ counts }}. The file has {{ size }} bytes.

## Load it
```python
import torch
from lightning_mbu import PackedModel

model = PackedModel.from_pretrained("<this folder or repository>")
logits = model(torch.zeros(1, {{ channels }}, 256, 256))  # height and width: multiples of {{ multiple }}
fast = torch.compile(model)
```

## Metrics
{{ metrics }}

## Dataset
{{ dataset }}

## Layers
| layer | becomes | channels | kernel | zeros |
|---|---|---|---|---|
{{ layers }}
{{ plan }}"""


class PackedHubMixin(ModelHubMixin, library_name="lightning-mbu", tags=TAGS):
    """`save_pretrained(folder)`, `from_pretrained(folder or repository)` and `push_to_hub(repository)`."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:  # type: ignore[override]
        """Writes the folder; a model card that is there already stays.

        Args:
            save_directory: folder, made if it does not exist.
            options: `metrics` (a dict), `dataset` (a name) and `plan` (of the trained network, `plan_of(model)`:
                also shows what stayed float, and why) for the model card; the rest as in
                `huggingface_hub.ModelHubMixin.save_pretrained`, such as `push_to_hub=True`.
        """
        card = dict(options.pop("model_card_kwargs", None) or {})
        card.update({name: options.pop(name) for name in ("metrics", "dataset", "plan") if name in options})
        return super().save_pretrained(save_directory, model_card_kwargs=card, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        from .files import save

        packed = cast("PackedModel", self)
        save(packed, save_directory / FILE_NAME)
        specification = packed.input_spec
        config = {"channels": specification.channels, "multiple": specification.multiple, "file": FILE_NAME}
        write_atomically(save_directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **unused: Any,
    ) -> Any:
        from .files import load

        path = Path(model_id) / FILE_NAME
        if not Path(model_id).is_dir():
            path = hf_hub_download(
                model_id, FILE_NAME, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        return load(path)

    def generate_model_card(self, *arguments: Any, **facts: Any) -> ModelCard:
        """The README: how to load, metrics, data set, what every layer became, and the plan where it is given."""
        from .files import packed_size

        packed = cast("PackedModel", self)
        rows = []
        for layer in packed.layers:
            weight = packed.weight(layer)
            kernel = "x".join(str(n) for n in weight.shape[2:])
            zeros = f"{(weight == 0).float().mean():.0%}" if layer.kind == "masked" else ""
            channels = f"{sum(layer.segments)} -> {weight.shape[0]}"
            rows.append(f"| {layer.name} | {layer.kind} | {channels} | {kernel} | {zeros} |")
        kinds = [layer.kind for layer in packed.layers]
        plan = facts.get("plan")
        return ModelCard.from_template(
            card_data(),
            template_str=_CARD,
            title=facts.get("title", "Packed segmentation network"),
            counts=f"{kinds.count('masked')} masked and {kinds.count('binary')} binary convolutions",
            size=f"{packed_size(packed):,}",
            channels=packed.input_spec.channels,
            multiple=packed.input_spec.multiple,
            metrics=metrics_text(facts.get("metrics")),
            dataset=facts.get("dataset", "Not given."),
            layers="\n".join(rows),
            plan="" if plan is None else f"\n## Plan\n{plan_table(plan)}\n",
        )  # fmt: skip
