"""Data-parallel training: two processes on one machine, and two processes as two machines (gloo)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

JOB = Path(__file__).parent / "distributed_job.py"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait(processes: list[subprocess.Popen]) -> None:
    try:
        for process in processes:
            _, error = process.communicate(timeout=240)
            assert process.returncode == 0, error.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()


def check(folder: Path) -> None:
    first, second = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    assert first["world"] == second["world"] == 2 and first["steps"] == second["steps"] == 16
    assert first["gates"] == second["gates"] == [1.0, 1.0]
    assert first["state"].keys() == second["state"].keys()
    trained = {name for name in first["state"] if "running" not in name}  # statistics are each rank's own
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in trained)


def start(command: list[str], **environment: str) -> subprocess.Popen:
    known = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", **environment}
    return subprocess.Popen(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_end_with_the_same_weights(tmp_path):
    wait([start([sys.executable, str(JOB), str(tmp_path), "1", "2"], MASTER_PORT=str(free_port()))])
    check(tmp_path)


@pytest.mark.parametrize("launcher", ["environment", "torchrun"])
def test_two_machines_end_with_the_same_weights(tmp_path, launcher):
    """The launch lines of the guide, with both machines on this one."""
    port = str(free_port())
    job = [str(JOB), str(tmp_path), "2", "1"]
    if launcher == "environment":
        processes = [
            start(
                [sys.executable, *job], MASTER_PORT=port, NODE_RANK=str(node), LOCAL_RANK="0", WORLD_SIZE="2"
            )
            for node in (0, 1)
        ]
    else:
        line = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
        processes = [
            start([sys.executable, *line, f"--master-port={port}", f"--node-rank={node}", *job])
            for node in (0, 1)
        ]
    wait(processes)
    check(tmp_path)
