"""What the kernel knows about the processes that a test started."""

import pathlib


def children(module: str) -> set[int]:
    """Ids of this process's children that run `module`, or a program of that name."""
    found = set()
    for path in pathlib.Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            line = pathlib.Path(f"/proc/{pid}/cmdline")
            if line.exists() and module.encode() in line.read_bytes():
                found.add(int(pid))
    return found


def memory(pid) -> float:
    """MiB that the process holds; "self" is this one."""
    rows = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("VmRSS:")) / 1024
