"""When work is shared among threads: csrc/torch/sharing.h alone, under loads that are made up."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[3] / "ops" / "csrc"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_sharing_stops_where_it_costs_and_comes_back(tmp_path):
    program, source = tmp_path / "check", Path(__file__).with_name("check_sharing.cpp")
    subprocess.run(["g++", "-std=c++20", "-I", str(CSRC), str(source), "-o", str(program)], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    shared = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines}
    assert shared["always good"] == 2000
    assert 4 <= shared["always bad"] <= 20  # tried again now and then, ever more rarely, and not for long
    assert 50 <= shared["always a little bad"] <= 400  # judged by more calls
    assert shared["one long wait"] == 2000
    # What sharing brought before buys little patience.
    assert 1002 <= shared["bad from the middle on"] <= 1006
    assert 1000 <= shared["bad for a while"] <= 1900
