"""What every model card says: the plan as a table, metrics, how to load a trained network."""

from __future__ import annotations

import json
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .plan import Plan

TAGS = ["semantic-segmentation", "masked-binary"]

_TRAINED = """---
{{ card_data }}
---
# {{ title }}

A `segmentation_models_pytorch.{{ title }}` trained masked-binary by lightning-mbu, with its latent float weights: to
train on, or to pack into bits. {{ share }} of its multiply-adds are one-bit. smp alone cannot read it: it has layers of
its own.

## Load it
```python
import torch
from lightning_mbu import convert, load_trained

model = load_trained("<this folder or repository>")
packed = convert(model, torch.zeros({{ input_shape }}))
```

## Metrics
{{ metrics }}

## Dataset
{{ dataset }}

## Plan
{{ plan }}
"""


def card_data() -> ModelCardData:
    """The head of every card."""
    return ModelCardData(library_name="lightning-mbu", pipeline_tag="image-segmentation", tags=list(TAGS))


def metrics_text(metrics: dict[str, Any] | None) -> str:
    """Metrics as a block of JSON."""
    return f"```json\n{json.dumps(metrics, indent=2)}\n```" if metrics else "Not given."


def plan_table(plan: Plan) -> str:
    """What becomes of every convolution, and why, in Markdown."""
    size = "x".join(str(n) for n in plan.input_shape)
    rows = [
        f"At input {size}, {plan.one_bit_share:.1%} of the multiply-adds are one-bit.\n",
        "| layer | role | becomes | MMAC | why |",
        "|---|---|---|---|---|",
    ]
    for layer in plan.layers:
        rows.append(
            f"| {layer.name} | {layer.role} | {layer.kind} | {layer.macs / 1e6:,.1f} | {layer.reason} |"
        )
    return "\n".join(rows)


def trained_card(title: str, plan: Plan, metrics: dict[str, Any] | None, dataset: str | None) -> ModelCard:
    """The README beside a trained network.

    Args:
        title: its architecture.
        plan: what was applied to it.
        metrics, dataset: as the author gives them.
    """
    return ModelCard.from_template(
        card_data(),
        template_str=_TRAINED,
        title=title,
        share=f"{plan.one_bit_share:.1%}",
        input_shape=", ".join(str(n) for n in plan.input_shape),
        metrics=metrics_text(metrics),
        dataset=dataset or "Not given.",
        plan=plan_table(plan),
    )
