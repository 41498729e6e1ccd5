"""Time on processors that are not here, from what their vector units can do in a cycle.

Every runtime is taken to reach the same share of that, and memory to cost nothing, so that what counts is the ratio
between precisions. Nothing was run: a front of such times says where measuring may be worth it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..bench.child import Job
from ..bench.models import network_of
from ..plan import make_plan

# Of what the vector units could do; packed layers reach a little more on AVX-512 (docs/results/cpu-targets.md).
SHARE = 0.7
# A popcount kernel reads whole words of inputs, and its tiles have so many outputs (cpu/conv2d/neon_tile.h).
_IN, _OUT = 32, 16


@dataclass(frozen=True)
class Processor:
    """What one core of a processor multiplies.

    Attributes:
        name: with instruction sets.
        ghz: clock.
        units: vector instructions in a cycle.
        macs: precision -> multiply-adds of one vector instruction, all that they take counted; `"packed"` is the best
            kernel of ours that counts bits; `neondot` multiplies fewer, but what its transforms cost is not known.
    """

    name: str
    ghz: float
    units: int
    macs: dict[str, int]

    def ms(self, precision: str, macs: float) -> float:
        """Time for so many multiply-adds."""
        return macs / (self.macs[precision] * self.units * self.ghz * SHARE) / 1e6


# Clocks and two vector instructions a cycle are assumed. fmla: 4; sdot: 16; smmla: 32; bfmmla: 16. Popcounts: 1024
# products in 34 instructions, in 26 with SHA3.
PROCESSORS = (
    Processor("modelled Cortex-A76, dot products", 2.4, 2, {"float": 4, "int8": 16, "packed": 30}),
    Processor(
        "modelled Neoverse N2, BF16, I8MM, SHA3", 2.7, 2,
        {"float": 4, "bfloat16": 16, "int8": 32, "packed": 39},
    ),
)  # fmt: skip


def modelled_ms(job: Job, precision: str, processor: Processor) -> float | None:
    """Time for one image; None where the processor has no instructions for that precision, and for absent
    blocks, which are not modelled.

    Args:
        job: names network, image and thresholds per channel.
        precision: `"packed"`, or what the whole float network is computed in.
        processor: one of `PROCESSORS`, or another.
    """
    if precision not in processor.macs or job.mask_blocks:
        return None
    model = network_of(job.model, job.arguments, one_bit=precision == "packed")
    plan = make_plan(model, torch.zeros(job.shape), planes=job.planes)
    every = plan.other_macs + sum(layer.macs for layer in plan.layers)
    if precision != "packed":
        return processor.ms(precision, every)
    in_bits = sum(layer.macs for layer in plan.quantized)
    packed = sum(
        layer.planes * layer.macs * _filled(model.get_submodule(layer.name)) for layer in plan.quantized
    )
    return processor.ms("float", every - in_bits) + processor.ms("packed", packed)


def _filled(conv: torch.nn.Module) -> float:
    """How many times the work of a layer is done, its channels filled up to whole words and tiles."""
    groups, channels, out_channels = (
        getattr(conv, name) for name in ("groups", "in_channels", "out_channels")
    )
    inside, outside = channels // groups, out_channels // groups
    return -(-inside // _IN) * _IN / inside * (-(-outside // _OUT) * _OUT / outside)
