"""mbu plan: the table, and under it what it would bring on this machine."""

from __future__ import annotations

import json
from typing import Any

import torch
from rich.console import Console

from ..model_names import find_model
from ..plan import make_plan
from ..verdict import predict_gain


def run(options: Any, console: Console) -> int:
    """`mbu plan`; its JSON is the plan, which `MBUQuantize(plan=file)` reads, and the verdict under a key of its own."""
    if min(options.threads, options.channels, options.planes) < 1:
        raise ValueError("--threads, --channels and --planes must all be at least 1.")
    model = find_model(options.model, options.arguments)
    example = torch.empty(1, options.channels, *options.size)
    plan = make_plan(
        model,
        example,
        masked=options.masked,
        order=options.order,
        planes=options.planes,
        linear=options.linear,
    )
    if not options.json:
        console.print(plan)
    verdict = None
    if options.verdict:
        try:
            verdict = predict_gain(model, plan, options.threads)
        except RuntimeError as error:  # an install without kernels plans and trains all the same
            Console(stderr=True).print(f"No verdict: {error}", highlight=False)
    if options.json:
        print(json.dumps({**json.loads(plan.to_json()), "verdict": verdict and verdict.to_dict()}))
    elif verdict is not None:
        console.print(verdict, highlight=False)
    return 0
