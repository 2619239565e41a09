"""python -m benchmarks.memory: memory that one gradient takes, beside what is predicted. On a CPU, a process a task.

A gradient is a rollout and its adjoint; measured is by how much the process grew, at its largest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

PROGRAM = """
import json, sys, torch, taichi_sim, tasks
taichi_sim.init("cpu", threads=int(sys.argv[3]))
task, k = tasks.make(sys.argv[1]), int(sys.argv[2])

def gradient(count):
    actions = task.limit * (2 * torch.rand(count, task.N, task.system.actions, dtype=task.simulator.dtype) - 1)
    start = task.start((9,), count)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the largest size so far is forgotten
    before = size("VmRSS")
    rows = task.simulator.rollout(start, actions)
    task.simulator.vjp(rows, torch.ones_like(rows.x), torch.ones_like(rows.v), torch.ones_like(rows.p))
    return size("VmHWM") - before

def size(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))

gradient(8)  # compiled
print(json.dumps([gradient(k), k * task.simulator.bytes_per_gradient(task.N)]))
"""


def measured(task: str, k: int, threads: int = 1) -> tuple[int, int]:
    """Bytes of one gradient of k rollouts: by how much a process grew, and as predicted."""
    command = [sys.executable, "-c", PROGRAM, task, str(k), str(threads)]
    # What was freed goes back to the system, so that nothing is taken twice from it unseen.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    taken, predicted = json.loads(done.stdout)
    return taken, predicted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tasks", default="pendulum2d-stop,pendulum3d-stop,double3d-stop,cable2d-stop,rope3d-stop,cloth-lay"
    )
    parser.add_argument("--k", type=int, default=4000)
    options = parser.parse_args()
    print("| task | rollouts | measured, MiB | predicted | error |")
    print("|---|---|---|---|---|")
    for task in options.tasks.split(","):
        taken, predicted = measured(task, options.k)
        print(
            f"| {task} | {options.k} | {taken / 2**20:.0f} | {predicted / 2**20:.0f} | {predicted / taken - 1:+.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
