"""Run by test_bits.py in a process of its own: python run_and_save.py THREADS PRECISION FILE."""

import sys

import systems
import torch

import taichi_sim

B, N = 256, 20


def outputs():
    """Rollouts and gradients of three systems, and every sweep over one of them."""
    out = {}
    for name in ("pendulum", "double", "damped_pendulum"):
        sim = taichi_sim.Simulator(systems.SYSTEMS[name](), 0.02)
        trajectory = sim.rollout(systems.start(sim, B), systems.actions(sim, B, N))
        out |= {f"{name} {rows}": getattr(trajectory, rows) for rows in ("x", "v", "p", "status", "iterations")}
        gradient = sim.vjp(trajectory, trajectory.x.clone(), trajectory.v.clone())
        out |= {f"{name} gradient {of}": getattr(gradient, of) for of in ("x", "v", "p", "a")}
        if name == "pendulum":
            q, r = (torch.ones(1, N, n, dtype=trajectory.x.dtype) for n in (sim.system.state_size, sim.system.actions))
            step = sim.gauss_newton_riccati(trajectory, gradient.a, q, r)
            out |= {f"{name} {of}": getattr(step, of) for of in ("da", "gains", "curvature")}
            out[f"{name} jacobian"] = sim.jacobian(trajectory)
            out |= dict(zip(("dx", "dv", "dp"), sim.jvp(trajectory, trajectory.a), strict=True))
    return out


if __name__ == "__main__":
    taichi_sim.init("cpu", precision=sys.argv[2], threads=int(sys.argv[1]))
    torch.save(outputs(), sys.argv[3])
