"""The C++ built and called: rollouts and adjoint sweeps on arrays with LANES rollouts side by side."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from taichi_sim import State
from tasks import Task

from .tables import header

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fschedule-insns",
    "-shared",
    "-fPIC",
    "-pthread",
    "-w",
)


def build(name: str, task: Task, options=()) -> ctypes.CDLL:
    """Compile model `name` ("rope", "cloth") for this machine, in a temporary folder that does not outlive the call."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory(prefix="limit-") as folder:
        Path(folder, "systems.h").write_text(header(name, task))
        library = Path(folder, "limit.so")
        folders = f"-I{folder}", f"-I{here}"
        command = ("g++", *FLAGS, f"-D{name.upper()}", *options, *folders, str(here / "limit.cpp"), "-o", str(library))
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


class Limit:
    """B rollouts of N steps of one task. Arrays are (groups, rows, numbers, lanes); the last group is filled up."""

    def __init__(self, library: ctypes.CDLL, task: Task, start: State, actions, threads: int):
        self._library = library
        self.lanes, self.threads = library.lanes(), threads
        s = task.system
        self.B, self.N, m = actions.shape
        self.groups = -(-self.B // self.lanes)
        self.D, self.Hd = s.points * s.dim, s.handles * s.dim
        self.a = self.interleaved(actions.numpy().reshape(self.B, self.N, m))
        sizes = {"x": self.D, "v": self.D, "p": self.Hd}
        self.rows = {name: self.empty(self.N + 1, n) for name, n in sizes.items()}
        for name, rows in self.rows.items():
            first = getattr(start, name).numpy().reshape(self.B, 1, -1)
            rows[:, :1] = self.interleaved(first)
        self.status, self.solves = (np.zeros((self.groups, self.N, self.lanes), np.int32) for _ in range(2))
        self.gradient = {name: self.empty(1, n) for name, n in sizes.items()} | {"a": self.empty(self.N, m)}

    def rollout(self):
        """Fill the rows after the first."""
        self._library.rollout(*self._arguments())

    def adjoint(self, gx, gv, gp):
        """Fill `gradient` from interleaved cotangents of the rows."""
        self._library.adjoint(*self._arguments(), *map(_pointer, (gx, gv, gp, *self.gradient.values())))

    def empty(self, rows: int, numbers: int):
        shape = (self.groups, rows, numbers, self.lanes)
        memory = np.empty(int(np.prod(shape)) + 8)
        shift = -memory.ctypes.data % 64 // 8  # loads and stores of whole vectors want whole cache lines
        return memory[shift : shift + int(np.prod(shape))].reshape(shape)

    def interleaved(self, array):
        """(B, rows, …) -> (groups, rows, numbers, lanes)"""
        B, rows = array.shape[:2]
        out = self.empty(rows, int(np.prod(array.shape[2:])))
        filled = np.concatenate((array, np.repeat(array[-1:], self.groups * self.lanes - B, axis=0)))
        out[...] = filled.reshape(self.groups, self.lanes, rows, -1).transpose(0, 2, 3, 1)
        return out

    def apart(self, array):
        """(groups, rows, numbers, lanes) -> (B, rows, numbers)"""
        return array.transpose(0, 3, 1, 2).reshape(-1, *array.shape[1:3])[: self.B]

    def _arguments(self):
        arrays = (self.a, *self.rows.values(), self.status, self.solves)
        return self.groups, self.N, self.threads, *map(_pointer, arrays)


def _pointer(array):
    return ctypes.c_void_p(array.ctypes.data)
