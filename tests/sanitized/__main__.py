"""python tests/sanitized SANITIZERS ARGUMENTS...: builds the library with GCC's sanitizers and runs Python with it.

    python tests/sanitized address,undefined -m soak kernels --share 0.1
    python tests/sanitized thread -m pytest tests/ops

Python and torch are the ordinary ones. Their calls of malloc and of pthreads go through the sanitizer too, which is loaded
before them: so it knows where every tensor ends, and who waited for whom.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNTIMES = {"address": "libasan.so", "thread": "libtsan.so"}


def build(sanitizers: str) -> Path:
    """The library of this tree with `sanitizers`, built anew where a source has changed."""
    folder = ROOT / "build" / sanitizers.replace(",", "-")
    settings = {
        "CMAKE_BUILD_TYPE": "Release", "CMAKE_CXX_COMPILER": "g++", "MBU_SANITIZE": sanitizers, "MBU_SKIP_CUDA": "ON",
        "CMAKE_MAKE_PROGRAM": str(Path(sys.executable).with_name("ninja")), "Python_EXECUTABLE": sys.executable,
    }  # fmt: skip
    tools = Path(sys.executable).parent
    configure = [tools / "cmake", "-S", ROOT / "ops", "-B", folder, "-G", "Ninja", "--log-level=WARNING"]
    configure += [f"-D{name}={value}" for name, value in settings.items()]
    for command in (configure, [tools / "ninja", "-C", folder]):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise SystemExit(f"the library could not be built with -fsanitize={sanitizers}")
    return folder / "_C.abi3.so"


def environment(sanitizers: str, library: Path) -> dict[str, str]:
    """Variables of a process that loads `library`, and of its children."""
    # The C++ library too: the sanitizer looks for what throws when it starts, and Python itself does not load it.
    preload = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in (RUNTIMES[sanitizers.partition(",")[0]], "libstdc++.so")
    ]
    return {
        **os.environ,
        "MBU_SANITIZED": str(library),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "LD_PRELOAD": " ".join(path.strip() for path in preload),
        # Python keeps what it has allocated until its end; what is too large is refused as without a sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0 allocator_may_return_null=1",
        # OpenMP and torch, which are not built for it, are not judged; what they do for us is (csrc/torch/parallel.cpp).
        "TSAN_OPTIONS": "halt_on_error=1 allocator_may_return_null=1 ignore_noninstrumented_modules=1",
    }


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1].partition(",")[0] not in RUNTIMES:
        print(__doc__, file=sys.stderr)
        return 2
    sanitizers, *arguments = sys.argv[1:]
    # ThreadSanitizer of GCC 12 does not start where addresses are drawn at random.
    command = ["setarch", "-R", sys.executable] if sanitizers == "thread" else [sys.executable]
    variables = environment(sanitizers, build(sanitizers))
    return subprocess.run([*command, *arguments], env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
