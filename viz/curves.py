"""Learning curves from a run's log.csv."""

from __future__ import annotations

import csv
from pathlib import Path


def learning_curve(run: str | Path) -> Path:
    """Draw RUN/curve.png: cost −V after each epoch on states that were not trained on, half a deviation shaded.

    The cost is drawn because it is positive and spans decades; the return is its negative.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = Path(run)
    with open(run / "log.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    cost = [-row["return_validation"] for row in rows]
    upper = [c + row["return_validation_std"] / 2 for c, row in zip(cost, rows, strict=True)]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.fill_between(epochs, cost, upper, alpha=0.2, color="C0", linewidth=0, label="half a standard deviation")
    axes.plot(epochs, cost, color="C0", label="policy on unseen start states")
    axes.set(xlabel="epoch", ylabel="cost −V", yscale="log", title=run.resolve().name)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    path = run / "curve.png"
    figure.savefig(path, dpi=120)
    return path
