"""Kernels without torch: built for this processor and, where the tools are at hand, for 64-bit Arm under an emulator.

``cross/`` is a program that runs every kernel against slow loops of its own. Files and flags come from
``ops/CMakeLists.txt``, so a new kernel is tested here without another list to extend.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbu_ops.backends import cpu_kernels

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "ops" / "csrc"
PROGRAM = Path(__file__).parent / "cross"
# `make sanitize` sets it: "address,undefined"
SANITIZERS = os.environ.get("MBU_SANITIZE", "")
LIMIT = 1800 if SANITIZERS else 300  # seconds for one compilation, or one run


def kernel_sources(processor: str) -> dict[Path, list[str]]:
    """The files of ``csrc/cpu`` that CMake compiles for ``processor``, each with its own flags.

    Reads the commands that name sources and flags, in the branches that Linux on that processor takes.
    """
    text = re.sub(r"#.*", "", (ROOT / "ops" / "CMakeLists.txt").read_text()).replace("\\\n", "")
    variables = {"CMAKE_SYSTEM_PROCESSOR": [processor], "CMAKE_SYSTEM_NAME": ["Linux"]}
    flags: dict[str, list[str]] = {}
    branches = []  # of the `if` commands around: "done", "taken" or "open"

    def expand(word: str) -> list[str]:
        word = re.sub(r"\$\{(\w+)\}", lambda name: ";".join(variables.get(name[1], [])), word)
        return [part for part in word.split(";") if part]

    def holds(left: str, test: str = "", right: str = "", *_: str) -> bool:
        value = ";".join(variables.get(left, []))
        return test == "MATCHES" and bool(re.search(right, value)) or test == "STREQUAL" and right == value

    for command, body in re.findall(r'(\w+)\s*\(((?:"[^"]*"|[^()"])*)\)', text):
        words = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"]+)', body)]
        match command:
            case "if":
                branches.append("taken" if holds(*words) else "open")
            case "elseif" | "else":
                found = command == "else" or holds(*words)
                branches[-1] = "done" if branches[-1] != "open" else "taken" if found else "open"
            case "endif":
                branches.pop()
            case _ if any(branch != "taken" for branch in branches):
                continue
            case "set":
                variables[words[0]] = [part for word in words[1:] for part in expand(word)]
            case "list" if words[0] == "APPEND":
                variables[words[1]] += [part for word in words[2:] for part in expand(word)]
            case "list":  # TRANSFORM name PREPEND prefix
                prefix = expand(words[3])[0]
                variables[words[1]] = [prefix + part for part in variables[words[1]]]
            case "set_source_files_properties" | "set_property":
                files, options = " ".join(words).split("COMPILE_OPTIONS ")
                for file in expand(files.replace(" ", ";")):
                    flags.setdefault(file, []).extend(options.split(";"))
    return {
        CSRC / file.split("csrc/")[1]: flags.get(file, [])
        for file in variables["SOURCES"]
        if "csrc/cpu/" in file
    }


def build(compiler: str, processor: str, folder: Path, optimize: str) -> Path:
    """Compiles and links the program."""
    jobs = {path: [optimize, *flags] for path, flags in kernel_sources(processor).items()}
    jobs |= {path: ["-O1"] for path in PROGRAM.glob("*.cpp")}
    include = ["-I", str(CSRC / "include"), "-I", str(CSRC)]
    # A sanitizer's own library cannot be linked statically; an Arm program under the emulator must be.
    checks = [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-g"] if SANITIZERS else []
    checks = checks if processor == platform.machine() else []

    def run(*arguments: str) -> None:
        command = [compiler, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stderr

    def compile_one(path: Path, flags: list[str]) -> None:
        run(
            "-std=c++20",
            "-ffp-contract=off",
            "-pthread",
            *flags,
            *checks,
            *include,
            "-c",
            str(path),
            "-o",
            f"{path.stem}.o",
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, jobs.keys(), jobs.values()))
    run("-pthread", *(checks or ["-static"]), *sorted(f"{path.stem}.o" for path in jobs), "-o", "kernels")
    return folder / "kernels"


def report(*command: str | Path) -> dict[str, str]:
    """What the program says about each kernel."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def shared_functions(compiler: str, processor: str, folder: Path) -> list[str]:
    """Functions of files with flags of their own that the linker may take for other files too."""
    files = [path.stem for path, flags in kernel_sources(processor).items() if flags]
    command = [compiler.removesuffix("g++") + "nm", "-C", *(folder / f"{stem}.o" for stem in files)]
    names = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    return [line for line in names.splitlines() if re.match(r"[0-9a-f]+ W ", line)]


def is_right(line: str) -> bool:
    count = re.fullmatch(r"(\d+) of (\d+) right", line)
    return count is not None and count[1] == count[2] and int(count[1]) > 300


def test_every_kernel_file_is_built_for_some_processor() -> None:
    built = {*kernel_sources("x86_64"), *kernel_sources("aarch64")}
    assert built == set((CSRC / "cpu").rglob("*.cpp"))


def test_kernels_of_this_processor(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux")
    # The other tests run these kernels as they are shipped, so here the shorter build will do.
    said = report(build(compiler, platform.machine(), tmp_path, "-O1"))
    if not SANITIZERS and shutil.which(compiler.removesuffix("g++") + "nm"):
        assert shared_functions(compiler, platform.machine(), tmp_path) == []
    assert {name: is_right(line) for name, line in said.items()} == {
        kernel.name: kernel.available for kernel in cpu_kernels()
    }


def test_every_flag_of_a_file_is_asked_for() -> None:
    """What a flag lets the compiler use, the processor must have: else it ends the process with SIGILL."""
    if shutil.which("g++") is None or platform.machine() != "x86_64":
        pytest.skip("needs g++ on x86-64")

    def extensions(flags: list[str]) -> set[str]:
        command = ["g++", *flags, "-dM", "-E", "-x", "c++", os.devnull]
        defined = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
        names = re.findall(r"^#define __([A-Z][A-Z0-9_]*)__ 1$", defined, re.MULTILINE)
        # Without a bit of their own, or one that the operating system's implies.
        return {{"XSAVE": "OSXSAVE", "CRC32": "SSE4_2"}.get(name, name).replace("_", "") for name in names}

    select = re.sub(r"//.*", "", (CSRC / "cpu" / "select.cpp").read_text())
    meanings = dict(re.findall(r"^\w+ (\w+)\([\w ]*\) \{\n(.*?)^\}", select, re.MULTILINE | re.DOTALL))
    meanings |= dict(re.findall(r"(k\w+)\s*=\s*([^;,]+)[;,]", select))

    def asked(name: str) -> set[str]:
        words = {name}
        while new := set(re.findall(r"\w+", " ".join(meanings.get(word, "") for word in words))) - words:
            words |= new
        return {re.sub("^(bit_|k)", "", word).replace("_", "").upper() for word in words}

    plain = extensions([])
    sources = kernel_sources("x86_64")
    kernels = re.findall(
        r'^MBU_CPU_KERNEL\(\w+, "[^"]*", (\w+), .*, \w+__(\w+), \w+, (\w+)\)',
        (CSRC / "cpu" / "kernels.inc").read_text(),
        re.MULTILINE,
    )
    checked = set()
    for predicate, *suffixes in kernels:
        for path, flags in sources.items():
            if path.stem.rpartition("__")[2] in suffixes:
                assert extensions(flags) - plain <= asked(predicate), path
                checked.add(path)
    assert checked == {path for path in sources if "__" in path.stem}


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user)")
    return emulator, build(compiler, "aarch64", tmp_path_factory.mktemp("arm"), "-O2")


@pytest.mark.parametrize(
    ("processor", "kernels"),
    [
        ("max", ["neondot", "neonsha3", "neoni8mm", "neon", "scalar"]),
        ("neoverse-n1", ["neondot", "neon", "scalar"]),
        ("cortex-a53", ["neon", "scalar"]),
    ],
)
def test_arm_kernels(arm_program: tuple[str, Path], processor: str, kernels: list[str]) -> None:
    """A kernel whose instructions the processor lacks says so instead of ending the program."""
    emulator, program = arm_program
    said = report(emulator, "-cpu", processor, program)
    assert set(said) == {"neondot", "neonsha3", "neoni8mm", "neon", "scalar"}
    assert [name for name, line in said.items() if is_right(line)] == kernels
    assert all("not available" in line for name, line in said.items() if name not in kernels)
