"""python -m benchmarks.peers: a table of this simulator and its peers."""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import os
import sys
import tempfile

PEERS = {"jax": ("jax", "jax_peer"), "mujoco": ("mujoco", "mujoco_peer"), "warp": ("warp", "warp_peer")}
SYSTEMS = ("rope", "double", "cloth")
UNABLE = {("mujoco", "cloth")}  # its contacts are not penalties


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def arguments() -> argparse.Namespace:
    def names(known):
        def parse(text):
            chosen = text.split(",")
            if unknown := [name for name in chosen if name not in known]:
                raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {unknown[0]!r}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS), help="some of " + ",".join(PEERS))
    parser.add_argument("--systems", type=names(SYSTEMS), default=list(SYSTEMS), help="some of " + ",".join(SYSTEMS))
    parser.add_argument("--B", type=int, default=512, help="rollouts in a batch")
    parser.add_argument("--runs", type=int, default=5, help="of each candidate, of which the median counts")
    parser.add_argument("--threads", type=int, default=cpus(), help=f"at most {cpus()} here, a divisor of B")
    parser.add_argument("-o", metavar="FILE.csv", help="write the table there as well")
    return parser.parse_args()


def main():
    args = arguments()
    absent = [name for name in args.peers if importlib.util.find_spec(PEERS[name][0]) is None]
    if absent:
        sys.exit(f"peers: {', '.join(absent)} not installed; pip install -e '.[bench]' brings all, --peers picks some")
    if min(args.B, args.runs, args.threads) < 1 or args.B % args.threads or args.threads > cpus():
        sys.exit(f"peers: expected B a multiple of threads, at most {cpus()} threads, got {args.B} and {args.threads}")
    # Every library makes as many threads as it may use processors. Nothing compiled before is used.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    vectors = "--xla_cpu_prefer_vector_width=512"  # where there are such; 256 is its default
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.threads} {vectors}"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = os.environ["WARP_CACHE_PATH"] = cache
        found = [row for name in args.systems for row in compare(name, args)]
    print(table(found))
    if args.o:
        with open(args.o, "w", newline="") as file:
            csv.writer(file).writerows([HEAD, *([y.replace(",", "") for y in row] for row in found)])


HEAD = (
    "system",
    "simulator",
    "setting",
    "error [mm]",
    "env-steps/s",
    "±",
    "speed, this / peer",
    "gradient [× forward]",
    "gradient speed, this / peer",
    "compile [s]",
)


def compare(name: str, args) -> list[tuple]:
    """Rows of the table for one system."""
    import torch

    import taichi_sim
    import tasks

    from . import ours
    from .problem import TASKS, Problem
    from .timing import measure, middle

    torch.set_num_threads(args.threads)
    taichi_sim.init("cpu", threads=args.threads)
    task = tasks.make(TASKS[name])
    compiled = ours.compile_forward(task)
    problem = Problem.of(name, args.B, task)
    reference = ours.candidate(problem, compiled)
    candidates = [reference]
    for peer in args.peers:
        if (peer, name) not in UNABLE:
            module = importlib.import_module(f".{PEERS[peer][1]}", __package__)
            candidates += module.candidates(problem, reference, args.threads)
    rows = []
    times = measure(candidates, args.runs)
    ours_forward, ours_gradient = (middle(y)[0] for y in (times[0].forward, times[0].gradient))
    for c, t in zip(candidates, times, strict=True):
        forward, spread = middle(t.forward)
        gradient = middle(t.gradient)[0] if t.gradient else None
        rows.append(
            (
                c.system,
                c.simulator,
                c.setting,
                f"{1e3 * c.error:.3g}",
                f"{c.steps / forward:,.0f}",
                f"{spread / forward:.0%}",
                f"{forward / ours_forward:.2f}",
                "" if gradient is None else f"{gradient / forward:.2f}",
                "" if gradient is None else f"{gradient / ours_gradient:.2f}",
                f"{c.compiled:.1f}",
            )
        )
    return rows


def table(rows: list[tuple]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
