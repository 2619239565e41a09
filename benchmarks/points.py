"""How the cost of a cloth step grows with the number of points: python benchmarks/points.py."""

import math
import time

import torch

import taichi_sim
from taichi_sim import Simulator, equilibrium
from tasks import cloth

SIDES = (5, 7, 10)
B, N, RUNS = 32, 40, 5


def measure(side: int) -> dict[str, float]:
    """µs a step and rollout: a cloth of the same extent and mass, its grips lifted and lowered at random."""
    system = cloth.system(side, spacing=cloth.SPACING * (cloth.SIDE - 1) / (side - 1))
    simulator = Simulator(system, cloth.H)
    start = simulator.start(B, x=equilibrium(system))
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (B, N // 8, system.actions), generator=generator) - 1.0
    actions = (0.5 * cloth.LIMIT * signs).repeat_interleave(8, 1).to(simulator.device, simulator.dtype).contiguous()
    rows = simulator.rollout(start, actions)
    assert rows.ok.all()
    weights = torch.ones_like(rows.x)
    simulator.vjp(rows, weights)

    def best(run):
        seconds = []
        for _ in range(RUNS):
            begun = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begun)
        return 1e6 * min(seconds) / (B * N)

    forward = best(lambda: simulator.rollout(start, actions))
    solves = rows.iterations.double().mean().item()
    return {
        "points": side**2,
        "step": forward,
        "solves": solves,
        "per solve": forward / (solves + 1),  # the last evaluation of a step solves nothing
        "adjoint": best(lambda: simulator.vjp(rows, weights)),
        "blocks": simulator._kernels.rollout.mech.blocks,
    }


def main():
    torch.set_num_threads(1)
    taichi_sim.init("cpu", threads=1)
    found = [measure(side) for side in SIDES]
    print("| points | µs a step | linear solves | µs a solve | µs adjoint | blocks of J with fill-in |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in found:
        line = (row["points"], row["step"], row["solves"], row["per solve"], row["adjoint"], row["blocks"])
        print("| {} | {:.0f} | {:.2f} | {:.1f} | {:.1f} | {} |".format(*line))
    for name in ("step", "per solve", "adjoint"):
        growth = [
            math.log(b[name] / a[name]) / math.log(b["points"] / a["points"])
            for a, b in zip(found, found[1:], strict=False)
        ]
        print(f"{name}: exponent {', '.join(f'{g:.2f}' for g in growth)} of the number of points")


if __name__ == "__main__":
    main()
