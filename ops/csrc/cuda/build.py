"""What the CUDA part of the library is built from: reads `kernels.inc`, lists the compilations, writes the table of images.

Called by CMake, and by the tests for the list. Needs neither nvcc nor torch.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
_FIELDS = ("name", "stem", "architectures", "params", "threads", "shared_bytes", "pixels", "channels")
# Kernel sources may include these, and NVRTC is given them by the names that the sources use.
_HEADER_ROOTS = (FOLDER.parent, FOLDER.parent / "include")


@dataclass(frozen=True)
class Kernel:
    """One line of `kernels.inc`.

    Attributes:
        name: the `extern "C"` symbol.
        stem: source file below `ops/csrc/cuda/`, without `.cu`.
        targets: what it is compiled for: `sm_80` is machine code, `compute_100` is PTX.
    """

    name: str
    stem: str
    targets: tuple[str, ...]

    @property
    def generated(self) -> bool:
        """Whether `generate.py` writes its file."""
        return self.stem.startswith("gemm/")


@dataclass(frozen=True)
class Image:
    """One compilation: `stem` for `target`."""

    stem: str
    target: str

    @property
    def file(self) -> str:
        """Name of the compiled file."""
        return f"{self.stem.replace('/', '.')}.{self.target}.fatbin"


def _fields(text: str) -> list[str]:
    """Splits at commas outside of parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip().strip('"') for part in parts]


def _targets(text: str) -> tuple[str, ...]:
    found = re.findall(r"(?:(sm|compute)_)?(\d{2,3}[a-f]?)", text)
    return tuple(f"{kind or 'sm'}_{number}" for kind, number in found)


def read_kernels(path: Path = FOLDER / "kernels.inc") -> list[Kernel]:
    """The kernels of a list.

    Raises:
        ValueError: a line with another number of fields, an unknown architecture, or a file that does not exist.
    """
    text = re.sub(r"//.*", "", path.read_text())
    kernels = []
    for match in re.finditer(r"^MBU_CUDA_KERNEL\((.*)\)\s*$", text, re.MULTILINE):
        fields = _fields(match[1])
        if len(fields) != len(_FIELDS):
            raise ValueError(
                f"{path.name}: {fields[0]} has {len(fields)} fields; a line has {', '.join(_FIELDS)}"
            )
        name, stem, targets = fields[0], fields[1], _targets(fields[2])
        if not targets:
            raise ValueError(
                f"{path.name}: {name} names no architecture in '{fields[2]}'; write sm_80 or compute_80"
            )
        kernel = Kernel(name, stem, targets)
        if not (kernel.generated or (path.parent / f"{stem}.cu").is_file()):
            raise ValueError(f"{path.name}: {name} names the file {stem}.cu, which does not exist")
        kernels.append(kernel)
    return kernels


def images(kernels: list[Kernel]) -> list[Image]:
    """The compilations that `kernels` need, each once."""
    return list(dict.fromkeys(Image(k.stem, target) for k in kernels for target in k.targets))


def sources(kernels: list[Kernel]) -> dict[str, Path]:
    """The text that NVRTC needs: every kernel file, and the headers they reach, by the name in the `#include`.

    Generated files are left out: the headers of CUTLASS are larger than this library."""
    found: dict[str, Path] = {}
    stems = dict.fromkeys(k.stem for k in kernels if not k.generated)
    todo = [(f"cuda/{stem}.cu", FOLDER / f"{stem}.cu") for stem in stems]
    while todo:
        name, path = todo.pop()
        if name in found:
            continue
        found[name] = path
        for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            roots = [path.parent, *_HEADER_ROOTS]
            home = next((root for root in roots if (root / included).is_file()), None)
            if home is None:
                raise ValueError(
                    f'{name} includes "{included}", which is not below ops/csrc or ops/csrc/include'
                )
            todo.append((included, home / included))
    return dict(sorted(found.items()))


def _raw_string(text: str) -> str:
    """A C++ literal; raw strings are cut because compilers limit the length of one."""
    pieces = [text[i : i + 8000] for i in range(0, len(text), 8000)]
    return "\n".join(f'R"mbu({piece})mbu"' for piece in pieces) or '""'


def write_table(folder: Path | None, kernels: list[Kernel]) -> str:
    """The C++ file that carries images (`.incbin`, where `folder` holds them) and sources."""
    lines = ["// Written by csrc/cuda/build.py.", '#include "cuda/images.h"', ""]
    compiled = images(kernels) if folder else []
    for i, image in enumerate(compiled):
        path = str(folder / image.file).replace("\\", "\\\\")  # type: ignore[operator]
        # The zero byte ends PTX where an image is plain text.
        lines += [
            f'__asm__(".section .rodata\\n.balign 64\\nmbu_image_{i}:\\n.incbin \\"{path}\\"\\n"',
            f'        "mbu_image_{i}_end:\\n.byte 0\\n.text\\n");',
            f'extern "C" const unsigned char mbu_image_{i}[], mbu_image_{i}_end[];',
        ]
    lines += ["", "namespace mbu::cuda {", "", "const Image kImages[] = {"]
    for i, image in enumerate(compiled):
        number = re.fullmatch(r"(sm|compute)_(\d+)([a-f]?)", image.target)
        assert number is not None
        lines.append(
            f"    {{\"{image.stem}\", {number[2]}, '{number[3] or ' '}', {str(number[1] == 'compute').lower()}, "
            f"mbu_image_{i}, mbu_image_{i}_end}},"
        )
    lines += ["    {}};", f"const int kImageCount = {len(compiled)};", "", "const Source kSources[] = {"]
    texts = sources(kernels)
    lines += [f'    {{"{name}",\n{_raw_string(path.read_text())}}},' for name, path in texts.items()]
    lines += ["    {}};", f"const int kSourceCount = {len(texts)};", "", "}  // namespace mbu::cuda", ""]
    return "\n".join(lines)


def main() -> int:
    """`list`: one line `file;source;target` per compilation. `generated`: the files that generate.py writes, without
    `.cu`. `table`: writes the C++ file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["list", "generated", "table"])
    parser.add_argument("--cutlass", action="store_true", help="with the kernels that generate.py writes")
    parser.add_argument(
        "--images", type=Path, help="folder of the compiled images; without it, sources alone"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        kernels = read_kernels()
        if options.command == "generated":
            print(*dict.fromkeys(k.stem for k in kernels if k.generated))
            return 0
        kernels = [k for k in kernels if options.cutlass or not k.generated]
        if options.command == "list":
            for image in images(kernels):
                print(f"{image.file};{image.stem}.cu;{image.target}")
            return 0
        table = write_table(options.images, kernels)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    # An unchanged file keeps its time stamp, so that nothing is compiled again.
    if not options.output.is_file() or options.output.read_text() != table:
        options.output.write_text(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
