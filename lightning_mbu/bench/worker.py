"""The process that measures: one job in as a line of JSON, steps and one result out as lines of JSON.

A process of its own because instruction sets can only be limited before torch loads, because compiled code and
allocators of one job would be in the way of the next, and because a candidate that ends its process must not end
the others' results.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from typing import Any

import torch

from mbu_ops.backends import cpu_kernels

from ..benchmark import Disagreement, Rival, compare
from ..bfloat16 import BFLOAT16_COMPILED, BFLOAT16_EAGER, FAST_BFLOAT16, SLOW_BFLOAT16
from ..deploy import verify
from ..timing import TIMING, instruction_sets
from .child import Job
from .isa import excluded
from .layers import measure_layers
from .memory import measure_memory
from .models import twins
from .rivals import rivals
from .threads import measure_threads

_VERIFY_SIZE = 64  # pixels: every layer and border class of a U-Net, in a second


def main() -> int:
    """Reads a job from standard input; see `child.run_job` for the other side."""
    job = Job(**json.loads(sys.stdin.readline()))
    # Packages print to standard output as they please; the protocol has the descriptor to itself.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def say(**message: Any) -> None:
        protocol.write(json.dumps(message) + "\n")

    def report(step: str) -> None:
        say(step=step)
        if step == TIMING:
            sys.stdin.readline()  # whoever measures at the moment ends first

    torch.set_num_threads(job.threads)
    try:
        say(result=_measure(job, report))
    except Disagreement as error:
        say(refused=str(error))
    except Exception as error:  # noqa: BLE001 - told to the user, beside the other jobs' results
        say(failed=f"{type(error).__name__}: {error}")
    return 0


def _measure(job: Job, report: Any) -> dict[str, Any]:
    cpu_kernels()  # a kernel that is unknown or cannot run is told here, before anything depends on it
    if job.kind == "memory":
        return measure_memory(job.model, job.arguments, job.candidate, job.shape, report)
    report("building and packing")
    blocks = {"mask_blocks": job.mask_blocks, "block_density": job.block_density}
    model, one_bit, packed = twins(job.model, job.channels, job.planes, job.arguments, **blocks)
    if job.kind == "layers":
        report(TIMING)
        example = torch.randn(job.shape)
        return measure_layers(packed, example, job.repeats)
    if job.kind == "threads":
        report(TIMING)
        example = torch.randn(job.shape)
        return {"states": measure_threads(packed, example, job.threads, job.repeats)}
    report("verifying")
    check = verify(one_bit, packed, torch.randn(1, job.channels, _VERIFY_SIZE, _VERIFY_SIZE))
    if not check.ok:
        raise Disagreement(
            f"the packed {job.model} differs from the trained one; nothing was timed.\n{check}"
        )
    out_of_bounds = excluded(job.isa)
    if not FAST_BFLOAT16.intersection(instruction_sets()):
        out_of_bounds.setdefault("bfloat16", SLOW_BFLOAT16)

    def admitted(rival: Rival) -> Rival:
        for words, reason in out_of_bounds.items():
            if words in rival.name:
                return replace(rival, build=_refusing(reason))
        return rival

    result = compare(
        model,
        packed,
        torch.randn(job.shape),
        threads=job.threads,
        repeats=job.repeats,
        bfloat16=False if "bfloat16" in out_of_bounds else None,
        rivals=[admitted(rival) for rival in rivals()] if job.rivals else [],
        tolerance=job.tolerance,
        budget_s=job.budget_s,
        report=report,
    )
    data = result.to_dict()
    if "bfloat16" in out_of_bounds:
        data["not_run"] |= dict.fromkeys((BFLOAT16_EAGER, BFLOAT16_COMPILED), out_of_bounds["bfloat16"])
    return data


def _refusing(reason: str) -> Any:
    def build(*_: Any) -> Any:
        raise ValueError(reason)

    return build


if __name__ == "__main__":
    sys.exit(main())
