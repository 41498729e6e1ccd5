"""Find the torch whose headers the kernels are compiled against.

The kernels use torch's stable ABI, so any torch >= 2.10 serves: headers only, nothing is linked. Under pip's
build isolation `sys.path` hides the torch that is installed beside the project, but the interpreter's own
site-packages folder is still known to `sysconfig`; looking there saves a download of some gigabytes.

Run as a script, it prints the include folder (CMake calls it).
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import sysconfig
from pathlib import Path

MINIMUM = (2, 10)


def search_path() -> list[str]:
    """Folders that may hold torch: what this interpreter imports from, then its own site-packages."""
    own = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return list(dict.fromkeys([*(p for p in sys.path if p), *own]))


def _release(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_include() -> Path | None:
    """The include folder of the first torch >= 2.10 found, or None."""
    for distribution in importlib.metadata.distributions(name="torch", path=search_path()):
        include = Path(str(distribution.locate_file("torch"))) / "include"
        if _release(distribution.version) >= MINIMUM and (include / "torch/csrc/stable/library.h").is_file():
            return include.resolve()
    return None


def main() -> int:
    include = find_include()
    if include is None:
        print(
            f"no torch >= {MINIMUM[0]}.{MINIMUM[1]} with headers in {search_path()}; "
            "install torch first, or set MBU_SKIP_KERNELS=1 for a pure-Python install",
            file=sys.stderr,
        )
        return 1
    print(include)
    return 0


if __name__ == "__main__":
    sys.exit(main())
