"""Where networks of width 16 lie on the front of quality and time, by class of processor: measured, and in words."""

from __future__ import annotations

from mbu_ops.backends import cpu_kernels

_WHERE = "(docs/results/accuracy.md)"
_NEITHER = f"not on nuclei and ISBI 2012, where a small int8 network is enough {_WHERE}"
_ARM = f"modelled for Arm, not measured: not worth it for speed {_WHERE}"
# By the best kernel of ours that a processor can run; the default preset with shortcuts, of `mbu study front`.
FRONTS = {
    "amx_int8": f"measured with AMX: on it on CamVid, {_NEITHER}",
    "avx512vpopcnt": "measured with AVX-512: on it on CamVid, not on nuclei, where a small int8 network is enough "
    f"{_WHERE}; ISBI 2012 was not timed there",
    "avx2": f"measured with AVX2: on it on CamVid, {_NEITHER}",
    "neondot": _ARM,
    "neonsha3": _ARM,
    "neoni8mm": _ARM,
    "neon": _ARM,
}
_UNKNOWN = f"not known for this class of processor; measured with AMX, AVX-512 and AVX2 {_WHERE}"


def measured_front() -> str:
    """Of this processor's class. `MBU_CPU_KERNEL` changes nothing, as for `eight_bits`.

    Raises:
        RuntimeError: this install has no kernels.
    """
    best = next(kernel.name for kernel in cpu_kernels() if kernel.available)
    return FRONTS.get(best, _UNKNOWN)
