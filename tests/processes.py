"""Processes: `pods` as people run it, and what the kernel knows about the ones that a test started."""

import os
import pathlib
import resource
import subprocess
import sys

PODS = [sys.executable, str(pathlib.Path(__file__).parents[1] / "pods.py")]
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _allow_cores():
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def pods(*arguments, cwd, without=(), **environment):
    """What `pods` said, run in the folder `cwd`, less the variables `without`; that nothing dumped its core there."""
    variables = {name: value for name, value in ENVIRONMENT.items() if name not in without} | environment
    done = subprocess.run(
        [*PODS, *map(str, arguments)],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=_allow_cores,
    )
    assert not list(pathlib.Path(cwd).glob("core*"))
    return done


def refused(code: int, out: str, err: str, *message: str):
    """Exit code 2, nothing but one line, and that line says it."""
    assert (code, out) == (2, "") and err.startswith("pods: ") and err.count("\n") == 1 and err.endswith("\n")
    for part in message:
        assert part in err


def children(name: str, parent="self") -> set[int]:
    """Ids of a process's children with `name` in their command line; "self" is this process."""
    found = set()
    for path in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in path.read_text().split():
            line = pathlib.Path(f"/proc/{pid}/cmdline")
            if line.exists() and name.encode() in line.read_bytes():
                found.add(int(pid))
    return found


def memory(pid) -> float:
    """MiB that a process holds; "self" is this one."""
    rows = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("VmRSS:")) / 1024
