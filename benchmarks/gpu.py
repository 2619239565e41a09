"""python -m benchmarks.gpu: what a CUDA machine is asked for. Kernels against a CPU, memory shared, speed, learning.

Every section prints a table as soon as it is done; `--sections` chooses, `--output` keeps the lines as Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import learner.imitation
import taichi_sim
import tasks
from learner import graphs
from learner.imitation import Samples, imitate
from learner.policy import Policy
from taichi_sim import State, Trajectory

from .epochs import epochs
from .timing import measure

SYSTEMS = ("pendulum2d-stop", "pendulum3d-stop", "double3d-stop", "cable2d-stop", "rope3d-stop", "cloth-lay")
SEED = (9,)  # of the start states; no training and no test uses it
COMPARED = 32  # rollouts whose rows and derivatives are held against a CPU's
JACOBIANS = 2  # of these, with the full ds/da
EXACT = 1e-12  # residual of conjugate gradients, so that two devices end at the same direction


def actions(task, B: int) -> torch.Tensor:
    """Random actions at every step, within the limits, the same on every device."""
    noise = torch.rand(B, task.N, task.system.actions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (task.limit * (2 * noise - 1)).to(task.simulator.device, task.simulator.dtype)


def derivatives(task, rows: Trajectory) -> dict[str, torch.Tensor]:
    """Every sweep at stored rows."""
    simulator = task.simulator
    gradient = simulator.vjp(rows, torch.ones_like(rows.x), torch.ones_like(rows.v), torch.ones_like(rows.p))
    found = {"vjp": gradient.a, "vjp, by the start": gradient.x}
    found["jvp"] = simulator.jvp(rows, rows.a)[0]
    found["jacobian"] = simulator.jacobian(rows[:JACOBIANS])
    q, r = task.curvature(rows.a.shape[1])
    if simulator.direct:
        found["Gauss-Newton"] = simulator.gauss_newton_riccati(rows, gradient.a, q, r).da
    else:
        found["Gauss-Newton"] = simulator.gauss_newton_cg(rows, gradient.a, q, r, tolerance=EXACT).da
    return found


def write_reference(folder: Path, names):
    """What a CPU makes of the same start states and actions."""
    taichi_sim.init("cpu")
    for name in names:
        task = tasks.make(name)
        rows = task.simulator.rollout(task.start(SEED, COMPARED), actions(task, COMPARED))
        tensors = {field: getattr(rows, field) for field in ("x", "v", "p", "a", "status", "iterations")}
        save_file({k: t.contiguous() for k, t in (tensors | derivatives(task, rows)).items()}, folder / name)


def agreement(say, names):
    """Steps from each row of the CPU, and every derivative at its rows."""
    say("| task | step, worst [m, m/s] | status equal | derivatives, relative to the rollout's largest |")
    say("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.gpu", "--reference", name, "--tasks", ",".join(names)]
        subprocess.run(command, check=True)
        for name in names:
            task, told = tasks.make(name), load_file(folder / name)
            told = {key: tensor.to(task.simulator.device) for key, tensor in told.items()}
            x, v, p, a, status = (told[key] for key in ("x", "v", "p", "a", "status"))
            start = State.start(x[:, 0].contiguous(), v[:, 0].contiguous(), p[:, 0].contiguous())
            worst, same = 0.0, True
            for t in range(a.shape[1]):
                state = start if t == 0 else Trajectory(x, v, p, a, status, status, start).state(t)
                after, outcome = task.simulator.step(state, a[:, t])
                worst = max(worst, *((b - c[:, t + 1]).abs().max().item() for b, c in ((after.x, x), (after.v, v))))
                same &= bool((outcome == status[:, t]).all())
            found = derivatives(task, Trajectory(x, v, p, a, status, told["iterations"], start))
            errors = {}
            for key, tensor in found.items():
                size = told[key].flatten(1).abs().amax(1).clamp(min=1e-300)
                errors[key] = ((tensor - told[key]).flatten(1).abs().amax(1) / size).max().item()
            each = ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
            say(f"| {name} | {worst:.1e} | {same} | {each} |")


def memory(say, names):
    """One memory for both libraries, and nothing allocated or awaited on the way."""
    task = tasks.make(names[-1])
    simulator, B = task.simulator, 4096
    start, drawn = task.start(SEED, B), actions(task, B)
    rows = simulator.begin(start, task.N)
    simulator.advance(rows, 0)  # compiled
    pointers = [getattr(rows, field).data_ptr() for field in ("x", "v", "p", "a", "status")]
    rows.a.copy_(drawn)
    before = rows.x[:, 2].clone()
    simulator.advance(rows, 0)
    simulator.advance(rows, 1)
    whole = simulator.rollout(start, drawn)
    wrote = bool((rows.x[:, 2] == whole.x[:, 2]).all()) and not bool((rows.x[:, 2] == before).all())
    torch.cuda.synchronize()
    free, allocated = torch.cuda.mem_get_info()[0], torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    begun = time.perf_counter()
    for t in range(2, task.N):
        simulator.advance(rows, t)
    launched = time.perf_counter() - begun
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    done = time.perf_counter() - begun
    count = torch.cuda.memory_stats()["allocation.all.allocated"] - allocated
    taken = free - torch.cuda.mem_get_info()[0]
    kept = pointers == [getattr(rows, field).data_ptr() for field in ("x", "v", "p", "a", "status")]
    say(f"torch writes actions, Taichi reads them and writes rows, torch reads those, same pointers: {wrote and kept}")
    say(f"closed loop equals open loop, bit for bit: {bool((rows.x == whole.x).all())}")
    say(f"{task.N - 2} steps of {B} rollouts: launched after {1e3 * launched:.1f} ms, done after {1e3 * done:.1f} ms")
    say(f"allocations by torch on the way: {count}; device memory taken by the process: {taken} bytes")
    again, few = simulator.rollout(start, drawn), simulator.rollout(start[:100], drawn[:100])
    equal = all(bool((getattr(again, f) == getattr(whole, f)).all()) for f in ("x", "v", "p", "status", "iterations"))
    gradients = [simulator.vjp(r, torch.ones_like(r.x)).a for r in (whole, again, few)]
    equal &= bool((gradients[0] == gradients[1]).all() and (gradients[0][:100] == gradients[2]).all())
    equal &= bool((few.x == whole.x[:100]).all())
    say(f"rows and gradients repeat bit for bit, in a batch of 100 too: {equal}")


def speed(say, names, sizes=(4096, 65536)):
    """Steps of one rollout a second, in millions: B rollouts of the task's horizon in one launch."""
    say("| task | rollouts | solves a step | forward | adjoint | Gauss-Newton step, part of the rollouts |")
    say("|---|---|---|---|---|---|")
    for name in names:
        task = tasks.make(name)
        for B in sizes if name != "cloth-lay" else (sizes[0],):
            start, drawn = task.start(SEED, B), actions(task, B)
            simulator, q_r = task.simulator, task.curvature(task.N)
            rows = simulator.rollout(start, drawn)
            ones = torch.ones_like(rows.x)
            g = simulator.vjp(rows, ones).a
            n = min(B, 4096)
            part, few = rows[:n], g[:n].contiguous()
            solve = simulator.gauss_newton_riccati if simulator.direct else simulator.gauss_newton_cg
            settings = {} if simulator.direct else {"tolerance": 0.1}
            calls = {
                "forward": lambda s=simulator, b=start, a=drawn: s.rollout(b, a),
                "adjoint": lambda s=simulator, r=rows, g=ones: s.vjp(r, g),
                "direction": lambda f=solve, r=part, g=few, q=q_r, k=settings: f(r, g, *q, **k),
            }
            timed = measure(calls, 5, simulator.device)
            rates = [count * task.N / timed[key].median / 1e6 for key, count in (("forward", B), ("adjoint", B))]
            rates.append(n * task.N / timed["direction"].median / 1e6)
            solves = rows.iterations.double().mean().item()
            say(f"| {name} | {B} | {solves:.2f} | " + " | ".join(f"{rate:.3g}" for rate in rates) + " |")
            del rows, ones, g, part, few, calls


def imitation(say, names, k=4000, steps=480, batch=512):
    """Gradient steps as PODS with k = 4000 takes them in table 1, each launched and recorded as a graph."""
    task = tasks.make(names[0])
    rows = task.simulator.rollout(task.start(SEED, k), actions(task, k))
    samples, found = Samples.of(task, rows), {}
    for name, wrap in (("launched", lambda step, device: step), ("recorded", graphs.replayed)):
        policy = Policy(task, 0)
        optimiser = graphs.adam(policy.parameters(), 3e-3)
        learner.imitation.replayed = wrap
        begun = time.perf_counter()
        loss = imitate(policy, optimiser, samples, steps, batch, itertools.repeat(3e-3), 0, 0)
        seconds = time.perf_counter() - begun
        say(f"{steps} steps of {batch} samples, {name}: {1e3 * seconds:.0f} ms, mean loss {loss:.6g}")
        found[name] = [parameter.detach().clone() for parameter in policy.parameters()]
    equal = all(bool((a == b).all()) for a, b in zip(*found.values(), strict=True))
    say(f"the same weights afterwards, bit for bit: {equal}")


def learning(say, names, k=4000, fewer=500):
    """A PODS epoch of the paper's size: k rollouts (of the cloth fewer), 50 imitation steps on all samples."""
    say("| task | rollouts | epoch [s] | of it neither kernels nor network [s] |")
    say("|---|---|---|---|")
    for name in names:
        count = fewer if name == "cloth-lay" else k
        timed = epochs(tasks.make(name), count, 3, "paper")
        say(f"| {name} | {count} | {timed['epoch'].median:.2f} | {timed['epoch rest'].median:.2f} |")


SECTIONS = {each.__name__: each for each in (agreement, memory, speed, imitation, learning)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--tasks", default=",".join(SYSTEMS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.tasks.split(",")
    if options.reference:
        write_reference(options.reference, names)
        return
    lines = []

    def say(line):
        lines.append(line)
        print(line, flush=True)
        if options.output:
            options.output.write_text("\n".join(lines) + "\n")

    taichi_sim.init("cuda")
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float64")
    for name in options.sections.split(","):
        say(f"\n## {name}\n\n{SECTIONS[name].__doc__}\n")
        begun = time.perf_counter()
        SECTIONS[name](say, names)
        say(f"\n({time.perf_counter() - begun:.0f} s)")


if __name__ == "__main__":
    main()
