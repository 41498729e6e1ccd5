"""Holding every candidate to one instruction set, so that an older processor can be judged on a newer one.

The libraries read these variables when they load, so they are set for a process before it starts.
"""

from __future__ import annotations

import os

from ..timing import instruction_sets

# What the processor may have beyond the set. ONNX Runtime takes no variable that would keep it from using it; PyTorch
# and OpenVINO follow oneDNN's.
_BEYOND = {
    "avx2": {"avx512f", "avx_vnni"},
    "avx2vnni": {"avx512f"},
    "avx512": {"amx_int8", "amx_bf16"},
}
_VARIABLES = {
    "native": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MBU_CPU_KERNEL": "avx2"},
    # Alder Lake and later without AVX-512.
    "avx2vnni": {
        "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MBU_CPU_KERNEL": "avxvnni",
    },
    # Ice Lake: AVX-512 with VNNI and VPOPCNTDQ, before bfloat16 and AMX.
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MBU_CPU_KERNEL": "avx512vpopcnt",
    },
}
ISAS = tuple(_VARIABLES)


def variables(isa: str, kernel: str | None = None) -> dict[str, str]:
    """Environment of a process that may use `isa` only.

    Args:
        isa: one of `ISAS`.
        kernel: the packed network's CPU kernel, where another one than the set's best is wanted.
    """
    return _VARIABLES[isa] | ({"MBU_CPU_KERNEL": kernel} if kernel else {})


def has_vnni() -> bool:
    """Whether this process may use instructions that multiply bytes without saturating in between."""
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA") == _VARIABLES["avx2"]["ONEDNN_MAX_CPU_ISA"]
    return not limited and bool({"avx512_vnni", "avx_vnni"}.intersection(instruction_sets()))


def excluded(isa: str) -> dict[str, str]:
    """Words in a rival's name -> why it cannot be held to `isa` on this processor."""
    if isa == "native":
        return {}
    found = {"bfloat16": f"{isa} processors have no bfloat16 instructions"}
    beyond = sorted(_BEYOND[isa].intersection(instruction_sets()))
    if beyond:
        found["ONNX Runtime"] = f"cannot be held to {isa}: it would use this processor's {', '.join(beyond)}"
    return found
