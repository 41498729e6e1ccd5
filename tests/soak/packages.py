"""The job `packages`: every file of every installed package is the one that its installer wrote down (RECORD, sha256)."""

from __future__ import annotations

import base64
import hashlib
from importlib import metadata
from pathlib import Path

from .job import Report

CHUNK = 2**22
# Written after the installation, by the interpreter or by the package that is under development here.
OWN = ("lightning-mbu",)


def digest(path: Path, algorithm: str) -> str:
    sums = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            sums.update(block)
    return base64.urlsafe_b64encode(sums.digest()).rstrip(b"=").decode()


def run(report: Report, count: int, number: int) -> None:
    """Everything, or the share `count` of a hundred of all files, chosen by `number`."""
    checked = size = packages = 0
    wrong: list[str] = []
    for package in metadata.distributions():
        name = package.metadata["Name"]
        if name in OWN:
            continue
        packages += 1
        report.keep(name)
        for index, file in enumerate(package.files or []):
            if file.hash is None or (index + number) % 100 >= count:
                continue
            path = Path(str(file.locate()))
            if not path.is_file() or digest(path, file.hash.mode) != file.hash.value:
                wrong.append(str(path))
            else:
                checked, size = checked + 1, size + path.stat().st_size
        report.progress(packages)
    assert not wrong, f"{len(wrong)} files are not what was installed: {', '.join(wrong[:10])}"
    report.result(f"{checked} files of {packages} packages, {size / 2**30:.1f} GiB, are what was installed")
