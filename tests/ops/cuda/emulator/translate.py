"""Translates the PTX that nvcc writes for a kernel into a C++ function that the emulator runs as one thread.

Registers become local variables, labels stay labels, every instruction becomes one statement. Loads, stores,
copies and warp instructions call the emulator, which checks them. What is not known stops the translation.
"""

from __future__ import annotations

import re

_TYPES = {
    "pred": "bool", "f32": "float",
    **{f"{kind}{bits}": f"{'int' if kind == 's' else 'uint'}{bits}_t" for kind in "bus" for bits in (8, 16, 32, 64)},
}  # fmt: skip
_SIGNS = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<"}
_UNORDERED = {
    "ltu": ">=",
    "leu": ">",
    "gtu": "<=",
    "geu": "<",
}  # of floats, true where one is NaN: the opposite fails
_SPECIAL = {
    "%tid.x": "emu::place().thread",
    **{f"%ctaid.{axis}": f"emu::place().block[{i}]" for i, axis in enumerate("xyz")},
}

PROLOGUE = """#include <cmath>
#include <cstring>

#include "cuda/params.h"
#include "emulator.h"
#include "ptx_memory.h"

using namespace mbu::cuda;
"""


def entries(ptx: str) -> dict[str, str]:
    """The bodies of the kernels in a PTX file, by name."""
    # Inline assembly has blocks of its own; a kernel ends behind a return.
    found = re.findall(r"\.entry (\w+)\(.*?\)[^{]*?\n\{\n(.*?\n\s*ret;\s*)\n\}\n", ptx, re.DOTALL)
    return dict(found)


def _operands(text: str) -> list[str]:
    return [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text)]


class _Function:
    def __init__(self, name: str):
        self.name = name
        self.own: set[str] = set()  # registers that inline assembly declares

    def value(self, operand: str) -> str:
        """A register, special register, number or address of the parameters, as a C++ expression."""
        if operand in _SPECIAL:
            return _SPECIAL[operand]
        if operand.startswith("%") or operand in self.own:
            return operand.lstrip("%")
        if operand.startswith(f"{self.name}_param_0"):
            return "parameters"
        if operand.endswith("mbu_sharedE"):
            return "0u"  # the start of dynamic shared memory
        if re.fullmatch(r"0f[0-9A-F]{8}", operand):
            return f"emu::bits_float(0x{operand[2:]}u)"
        if re.fullmatch(r"-?\d+", operand):
            return f"{operand}ll"
        raise ValueError(f"{self.name}: PTX operand {operand} is not known")

    def address(self, operand: str) -> str:
        base, _, offset = operand.strip("[]").partition("+")
        return f"({self.value(base)} + ({offset or 0}))"

    def vector(self, operand: str) -> list[str]:
        return [self.value(part.strip()) for part in operand.strip("{}").split(",")]

    def statement(self, op: str, operands: list[str]) -> str:
        """One instruction."""
        parts = op.split(".")
        kind, of = parts[0], _TYPES.get(parts[-1], "")
        if op.startswith(("ld.", "st.")):
            return self.memory(parts, operands)
        if kind == "cp":
            return self.copy(op, operands)
        if kind in ("mma", "wmma", "ldmatrix", "shfl", "vote", "bar"):
            return self.warp(op, operands)
        if op.startswith("mov.b") and any("{" in operand for operand in operands):
            return self.repack(parts[-1], operands)
        if kind == "bra":
            return f"goto {operands[0].lstrip('$')};"
        if kind == "ret":
            return "return;"
        target, *sources = (self.value(operand) for operand in operands)
        typed = [f"{of}({source})" for source in sources]
        unsigned = of.replace("int", "uint") if of.startswith("int") else of
        as_unsigned = [f"{unsigned}({source})" for source in sources]
        wide = of.replace("32", "64").replace("16", "32")
        widened = [f"{wide}({source})" for source in typed]
        match kind, parts[1:-1]:
            case "mov", [] if parts[-1] == "b32" and (target[0] == "f") != (sources[0][0] == "f"):
                value = f"emu::{'bits_float' if target[0] == 'f' else 'float_bits'}({sources[0]})"
            case "mov", []:
                value = typed[0]
            case "cvta", _:
                value = sources[0]
            case (("add" | "sub" | "and" | "or" | "xor"), [] | ["rn"]):
                left, right = typed if of in ("float", "bool") else as_unsigned
                value = f"{left} {_SIGNS[kind]} {right}"
            case "not", []:
                value = f"!{sources[0]}" if of == "bool" else f"~{typed[0]}"
            case "neg", []:
                value = f"-{typed[0]}" if of == "float" else f"0 - {as_unsigned[0]}"
            case "shl", []:
                value = f"emu::shift_left<{of}>({sources[0]}, {sources[1]})"
            case "shr", []:
                value = f"emu::shift_right<{of}>({sources[0]}, {sources[1]})"
            case "popc", []:
                value = f"__builtin_popcount({sources[0]})"
            case "bfi", []:
                value = f"emu::insert_bits({', '.join(sources)})"
            case "mul", ["lo"]:
                value = f"{as_unsigned[0]} * {as_unsigned[1]}"
            case "mul", ["hi"]:
                value = f"({widened[0]} * {widened[1]}) >> 32"
            case "mul", ["wide"]:
                value = f"{widened[0]} * {widened[1]}"
            case "mad", ["lo"]:
                value = f"{as_unsigned[0]} * {as_unsigned[1]} + {as_unsigned[2]}"
            case "mad", ["wide"]:
                value = f"{widened[0]} * {widened[1]} + {wide}({sources[2]})"
            case "fma", ["rn"]:
                value = f"std::fma({', '.join(sources)})"
            case "mul", [] | ["rn"]:
                value = f"{sources[0]} * {sources[1]}"
            case "div", [] | ["rn"]:
                value = f"{typed[0]} / {typed[1]}"
            case "rem", []:
                value = f"{typed[0]} % {typed[1]}"
            case (("min" | "max"), []):
                value = f"std::{kind}({typed[0]}, {typed[1]})"
            case "setp", ["nan"]:
                value = f"std::isnan({sources[0]}) || std::isnan({sources[1]})"
            case "setp", [compare] if compare in _UNORDERED:
                value = f"!({typed[0]} {_UNORDERED[compare]} {typed[1]})"
            case "setp", [compare]:
                value = f"{typed[0]} {_COMPARE[compare]} {typed[1]}"
            case "selp", []:
                value = f"{sources[2]} ? {typed[0]} : {typed[1]}"
            case "cvt", ["f32"] if parts[-1] == "f16":
                value = f"emu::half_to_float({sources[0]})"
            case "cvt", ["rn", "f16"]:
                value = f"emu::float_to_half({sources[0]})"
            case "cvt", ["rni", to]:
                value = f"{_TYPES[to]}(std::nearbyint({typed[0]}))"
            case "cvt", [*_, to]:
                value = f"{_TYPES[to]}({typed[0]})"
            case _:
                raise ValueError(f"{self.name}: PTX instruction {op} is not known")
        return f"{target} = {value};"

    def repack(self, kind: str, operands: list[str]) -> str:
        half = _TYPES[kind.replace("64", "32")] if kind == "b64" else "uint16_t"
        bits = 32 if kind == "b64" else 16
        if operands[0].startswith("{"):
            low, high = self.vector(operands[0])
            source = self.value(operands[1])
            return f"{low} = {half}({source}); {high} = {half}({source} >> {bits});"
        low, high = (f"{_TYPES[kind]}({half}({part}))" for part in self.vector(operands[1]))
        return f"{self.value(operands[0])} = {low} | {high} << {bits};"

    def memory(self, parts: list[str], operands: list[str]) -> str:
        of = _TYPES[parts[-1]]
        space = next(part for part in parts if part in ("param", "global", "shared"))
        load = parts[0] == "ld"
        registers, place = (operands[0], operands[1]) if load else (operands[1], operands[0])
        names = self.vector(registers)
        address = self.address(place)
        call = f"emu::{'load' if load else 'store'}_{space}({address}, t_, sizeof t_);"
        if load:
            copies = " ".join(f"{name} = t_[{i}];" for i, name in enumerate(names))
            return f"{{ {of} t_[{len(names)}]; {call} {copies} }}"
        values = ", ".join(f"{of}({name})" for name in names)
        return f"{{ const {of} t_[] = {{{values}}}; {call} }}"

    def copy(self, op: str, operands: list[str]) -> str:
        if op == "cp.async.commit_group":
            return "emu::commit_copies();"
        if op == "cp.async.wait_group":
            return f"emu::wait_copies({operands[0]});"
        if op == "cp.async.wait_all":
            return "emu::commit_copies(); emu::wait_copies(0);"
        to, source, size, present = [*operands, operands[2]][:4]
        pointer = f"reinterpret_cast<const void*>({self.address(source)})"
        return f"emu::copy_async(uint32_t{self.address(to)}, {pointer}, {size}, {self.value(present)});"

    def warp(self, op: str, operands: list[str]) -> str:
        if op == "bar.sync":
            return "emu::barrier();"
        if op == "vote.sync.ballot.b32":
            return f"{self.value(operands[0])} = emu::ballot({self.value(operands[1])});"
        if op == "shfl.sync.bfly.b32":
            target, value, lanes = operands[0].partition("|")[0], operands[1], operands[2]
            return f"{self.value(target)} = emu::shuffle_xor({self.value(value)}, {self.value(lanes)});"
        if op == "shfl.sync.idx.b32":
            target, value, lane = operands[0].partition("|")[0], operands[1], operands[2]
            return f"{self.value(target)} = emu::shuffle({self.value(value)}, {self.value(lane)});"
        if op.startswith("ldmatrix.sync.aligned.") and sorted(op.split(".")[3:5]) == ["m8n8", "x4"]:
            copies = " ".join(f"{name} = m_[{i}];" for i, name in enumerate(self.vector(operands[0])))
            return f"{{ uint32_t m_[4]; emu::load_matrix_x4(m_, uint32_t{self.address(operands[1])}); {copies} }}"
        if op == "wmma.mma.xor.popc.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32":  # the older name
            op = "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc"
        shape = op.split(".")[3]
        product = {"xor": "xor_popc", "and": "and_popc"}.get(op.split(".")[-2], "s8")
        d, a, b, c = map(self.vector, operands)
        function = {
            "m16n8k256": "mma_m16n8", "m16n8k128": "mma_m16n8_half", "m16n8k32": "mma_m16n8", "m8n8k128": "mma_m8n8",
        }.get(shape)  # fmt: skip
        if not op.startswith("mma.sync.aligned.") or function is None:
            raise ValueError(f"{self.name}: PTX instruction {op} is not known")
        sums = ", ".join(f"int32_t({name})" for name in c)
        rows = f"const uint32_t a_[] = {{{', '.join(a)}}};" if len(a) > 1 else ""
        given = ", ".join(["a_" if len(a) > 1 else a[0], *b])
        copies = " ".join(f"{name} = c_[{i}];" for i, name in enumerate(d))
        return f"{{ int32_t c_[] = {{{sums}}}; {rows} emu::{function}(emu::Product::{product}, c_, {given}); {copies} }}"


def translate(name: str, body: str, params: str) -> str:
    """The C++ function of one kernel.

    Args:
        name: the kernel's name.
        body: its PTX between the braces (:func:`entries`).
        params: its parameter struct.

    Raises:
        ValueError: at an instruction or operand that this table does not know.
    """
    function, lines = _Function(name), []
    body = re.sub(r"//[^\n]*", "", body)
    for text in re.findall(r"\s*(\$\w+:|[{}]|[^;]+;)", body.strip()):
        if text.endswith(":"):
            lines.append(f"{text.lstrip('$')};")
            continue
        if text in "{}":
            lines.append(text)
            continue
        text = text.rstrip(";").strip()
        if text.startswith((".pragma", ".loc")) or not text:
            continue
        if register := re.match(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>", text):
            kind, prefix, count = register.groups()
            names = ", ".join(f"{prefix}{i} = {{}}" for i in range(int(count)))
            lines.append(f"{_TYPES[kind]} {names};")
            continue
        if register := re.fullmatch(r"\.reg \.(\w+)\s+%?([a-zA-Z]\w*)", text):
            function.own.add(register[2])
            lines.append(f"{_TYPES[register[1]]} {register[2]} = {{}};")
            continue
        guard = re.match(r"@(!?)%?(\w+)\s+(.*)", text, re.DOTALL)
        op, _, rest = re.sub(r"\s+", " ", (guard[3] if guard else text)).partition(" ")
        # How much to fetch into the second cache is advice.
        statement = function.statement(op.removesuffix(".uni").replace(".L2::128B", ""), _operands(rest))
        lines.append(f"if ({guard[1]}{guard[2]}) {{ {statement} }}" if guard else statement)
    code = "\n  ".join(lines)
    head = "const uint64_t parameters = reinterpret_cast<uint64_t>(&given);"
    return f'extern "C" void {name}(const {params} given) {{\n  {head}\n  {code}\n}}\n'
