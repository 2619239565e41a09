"""Learning curves from a run's log.csv."""

from __future__ import annotations

import csv
from pathlib import Path


def learning_curve(run: str | Path) -> Path:
    """Draw RUN/curve.png: cost −V per epoch before and after the improvement, half a standard deviation shaded.

    The cost is drawn because it is positive and spans decades; the return is its negative.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = Path(run)
    with open(run / "log.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    cost = [-row["return"] for row in rows]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    half = [row["return_std"] / 2 for row in rows]
    low = [max(c - s, 0.2 * c) for c, s in zip(cost, half, strict=True)]
    axes.fill_between(epochs, low, [c + s for c, s in zip(cost, half, strict=True)], alpha=0.2, color="C0", linewidth=0)
    axes.plot(epochs, cost, color="C0", label="policy, V(π)")
    axes.plot(epochs, [-row["return_improved"] for row in rows], "--", color="C1", label="improved actions, V(ā)")
    axes.set(xlabel="epoch", ylabel="cost −V on the epoch's start states", yscale="log", title=run.resolve().name)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    path = run / "curve.png"
    figure.savefig(path, dpi=120)
    return path
