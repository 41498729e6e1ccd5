"""The honest rival of a one-bit network: the same one in eight bits, by class of processor."""

from __future__ import annotations

from dataclasses import dataclass

from mbu_ops.backends import cpu_kernels


@dataclass(frozen=True)
class EightBits:
    """What a network gains in eight bits.

    Attributes:
        gain: how many times faster than float run eagerly, from - to: networks differ.
        source: where that is known from.
    """

    gain: tuple[float, float]
    source: str

    def __str__(self) -> str:
        low, high = self.gain
        return f"{low:g}x to {high:g}x ({self.source})" if low < high else f"{high:g}x ({self.source})"


# Measured: medians of float eager / the fastest int8 runtime that was close enough to float; U-Nets at 256x256 and
# 512x512, one thread. Modelled: multiply-adds of one vector instruction / those in float (explore/modelled.py).
_VNNI = EightBits((3.8, 6.1), "measured with AVX-512 VNNI, docs/results/cpu.md")
# By the best kernel of ours that a processor can run.
EIGHT_BITS = {
    "amx_int8": EightBits((3.2, 14.3), "measured with AMX, docs/results/amx/cpu.md"),
    "avx512vpopcnt": _VNNI,
    "avx512vnni": _VNNI,
    "avx512bw": _VNNI,
    # 256 bits of VNNI gain over 256 bits of float what 512 gain over 512.
    "avxvnni": _VNNI,
    "avx2": EightBits((2.2, 2.4), "measured with AVX2, docs/results/cpu.md"),
    "neondot": EightBits((4.0, 8.0), "modelled with dot products and with I8MM, not measured"),
    "neonsha3": EightBits((4.0, 8.0), "modelled with dot products and with I8MM, not measured"),
    "neoni8mm": EightBits((8.0, 8.0), "modelled with I8MM, not measured"),
    "neon": EightBits((4.0, 4.0), "modelled with dot products, not measured"),
    "scalar": EightBits((1.0, 4.0), "not known: at best four bytes for a float"),
}


def eight_bits() -> EightBits:
    """Of this processor. `MBU_CPU_KERNEL` changes nothing: eight-bit runtimes do not read it.

    Raises:
        RuntimeError: this install has no kernels.
    """
    best = next(kernel.name for kernel in cpu_kernels() if kernel.available)
    return EIGHT_BITS[best]
