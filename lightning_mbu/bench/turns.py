"""Processes that prepare side by side and measure alone: while one measures, the others stand still.

Most of a benchmark's time goes into compiling and quantizing, which may share the machine; times may not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """Takes care of the processes of one benchmark; each must lead a session of its own."""

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._groups: set[int] = set()
        self._over = False

    @contextmanager
    def process(self, start: Callable[[], subprocess.Popen[str]]) -> Iterator[subprocess.Popen[str]]:
        """The process that `start` starts, not before whoever measures is done; it ends with the block.

        Raises:
            RuntimeError: `end` has been called.
        """
        with self._alone:
            if self._over:
                raise RuntimeError("the benchmark is over.")
            child = start()
            self._groups.add(child.pid)
        try:
            yield child
        finally:
            self._groups.discard(child.pid)
            _signal(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    @contextmanager
    def alone(self, child: subprocess.Popen[str]) -> Iterator[None]:
        """While it lasts, every other process is stopped; waits for its turn."""
        with self._alone:
            others = self._groups - {child.pid}
            for group in others:
                _signal(group, signal.SIGSTOP)
            try:
                yield
            finally:
                for group in others & self._groups:
                    _signal(group, signal.SIGCONT)

    def end(self) -> None:
        """Ends all processes, compilers that they started included."""
        self._over = True
        for group in list(self._groups):
            _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
