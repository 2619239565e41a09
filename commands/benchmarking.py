"""pods bench."""

from __future__ import annotations

from pathlib import Path

from taichi_sim.errors import InputError, expect

from .runs import begin


def bench(options):
    import tasks

    names = _list(options.tasks) or [name for name in tasks.names() if not name.endswith("-origin")]
    for name in names:
        tasks.make(name)
    from benchmarks import epochs, growth, operations, report, startup
    from benchmarks.timing import Timing, measure
    from learner.run import environment

    chosen = _list(options.operations) or list(operations.NAMES)
    for name in chosen:
        expect(name in operations.NAMES, "operations", f"some of {', '.join(operations.NAMES)}", repr(name))
    sizes = [_count(word) for word in _list(options.rollouts)]
    expect(len(sizes) > 0, "rollouts", "numbers like 64,512", repr(options.rollouts))
    expect(options.runs >= 1, "runs", "a number >= 1", options.runs)
    old = None if options.compare is None else report.from_csv(Path(options.compare))
    begin(options)
    where = environment()
    device, precision = where["device_type"], where["precision"]
    preset = "paper" if device == "cuda" else "cpu"
    rows, output = [], Path(options.output)

    def add(found):
        rows.extend(found)
        for row in found:
            print(f"{row.task} {row.operation}, {row.rollouts} x {row.steps}: {row.median:.4g} s", flush=True)

    for name in names:
        task = tasks.make(name)
        if not options.quick:
            found = startup.startup(name, device, precision)
            add([report.Row.of(task, "startup", key, 2, Timing.of([value])) for key, value in found.items()])
        for size in sizes:
            timed = operations.Operations(task, size, preset)
            calls = timed.calls(dict.fromkeys((operations.FORWARD, *chosen)))
            solves = {operations.FORWARD: timed.rows.iterations.double().mean().item()}
            timings = measure(calls, options.runs, task.simulator.device)
            about = ((op, timed.counted(op), timing, solves.get(op)) for op, timing in timings.items())
            add([report.Row.of(task, "operation", *each) for each in about])
            del timed, calls
            if not options.quick:
                found = epochs.epochs(task, size, options.runs, preset)
                add([report.Row.of(task, "epoch", key, size, timing) for key, timing in found.items()])
        if not options.quick:
            add(growth.horizons(name, options.runs, preset))
    if not options.quick:
        add(growth.points(options.runs))
    about = f"{where['device']} ({device}, {where['threads']} threads), {precision}; "
    about += ", ".join(f"{name} {where[name]}" for name in ("taichi", "torch", "python"))
    extra = growth.report(rows) + ([] if old is None else report.changes(rows, old))
    from learner.files import write

    try:
        output.mkdir(parents=True, exist_ok=True)
        write(output / "bench.csv", report.to_csv(rows).encode())
        write(output / "bench.md", report.markdown(rows, about, extra).encode())
    except OSError as error:
        raise InputError(f"output: expected a folder to write to, got {output} ({error.strerror})") from error
    for path in (output / "bench.md", output / "bench.csv", *growth.draw(rows, output / "growth")):
        print(f"written to {path}")


def _list(text: str | None) -> list[str]:
    return [] if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _count(text: str) -> int:
    expect(text.isdecimal() and 0 < int(text) < 2**31, "rollouts", "numbers like 64,512", repr(text))
    return int(text)
