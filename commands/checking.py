"""pods check-gradients and doctor."""

from __future__ import annotations

from taichi_sim.errors import expect

from .runs import begin, begin_as, open_run, task_of


def check_gradients(options):
    import tasks
    from tasks.verification import MISMATCH, RATE_ERROR, check_derivatives

    tasks.make(options.task, options.horizon)
    begin(options)
    rates, mismatch = check_derivatives(tasks.make(options.task, options.horizon), options.states)
    for name, rate in rates.items():
        print(f"return by {name:8}  Taylor rate, worst of {options.states} states: {rate:.4f}  (2 is right)")
    print(f"adjoint against forward sweep, relative mismatch: {mismatch:.1e}")
    return 0 if all(abs(rate - 2) <= RATE_ERROR for rate in rates.values()) and mismatch <= MISMATCH else 1


def doctor(options):
    from taichi_sim.doctor import examine

    if options.stress is not None:
        return _stress(options)
    if options.failures is not None:
        return _failures(options)
    return 0 if examine(options.device, options.precision, print) else 1


def _stress(options):
    import tasks
    from tasks.stress import stress

    tasks.make(options.stress)
    expect(options.steps >= 1, "steps", "a number >= 1", options.steps)
    begin(options)
    found = stress(tasks.make(options.stress), options.steps)
    print(f"{options.stress}: {found.steps} random steps at the velocity limit")
    print(f"  not converged          {found.failed}")
    print(f"  falsely converged      {found.false}")
    print(f"  numbers not finite     {found.not_finite}")
    print(f"  linear solves a step   {found.iterations[0]:.2f}, at most {found.iterations[1]}")
    return 0 if found.clean else 1


def _failures(options):
    """The rollouts that stopped a run, simulated again."""
    from collections import Counter
    from pathlib import Path

    from learner import failures
    from taichi_sim import Status

    run = open_run(options.failures)
    begin_as(run, options)
    now, then = failures.replay(Path(options.failures) / "failures.safetensors", task_of(run))
    print(f"{len(then)} rollouts that failed, first bad step and what it said: then, and simulated again")
    for title, rows in (("then", then), ("now", now)):
        bad = rows.status != Status.OK
        steps = [int(row.nonzero()[0]) if bool(row.any()) else -1 for row in bad]
        words = Counter(
            "converged" if t < 0 else Status(int(rows.status[i, t])).name.lower() for i, t in enumerate(steps)
        )
        print(f"  {title:5} {', '.join(f'{n} {word}' for word, n in sorted(words.items()))}; steps {steps[:10]}")
    return 0 if bool(now.ok.all()) else 1
