"""What is printed: tables and a progress line."""

from __future__ import annotations

import sys
import time


def console():
    from rich.console import Console

    return Console(soft_wrap=False)


def show_evaluation(result: dict):
    from rich.table import Table

    table = Table("metric", "value", title=f"{result['task']} on {result['states']} test states")

    def line(name, value, form, unit=""):
        table.add_row(name, "-" if value is None else f"{value:{form}} {unit}".strip())

    table.add_row("return", f"{result['return']:.4f} ± {result['return_std']:.4f}")
    line("optimality gap", result["optimality_gap"], ".2%")
    line("terminal kinetic energy", result["terminal_kinetic_energy"], ".2e", "J")
    line("final distance", result["final_distance"], ".2e", "m")
    line("mean handle speed", result["handle_speed"], ".4f", "m/s")
    line("failed rollouts", result["failed"], "d")
    line("training time", result.get("training_seconds"), ".1f", "s")
    console().print(table)


class Progress:
    """Epoch, return and seconds per phase: a live line on a terminal, plain lines elsewhere."""

    def __init__(self, epochs: int):
        self.epochs, self._bar, self._job, self._told = epochs, None, None, 0.0

    def __enter__(self):
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
            self._bar = Progress(*columns)
            self._bar.start()
            self._job = self._bar.add_task("train", total=self.epochs, line="starting")
        return self

    def show(self, row: dict):
        phases = " ".join(f"{k.removeprefix('seconds_')} {v:.2f}" for k, v in row.items() if k.startswith("seconds_"))
        line = f"return {row['return']:.4f}, unseen {row['return_validation']:.4f}  seconds: {phases}"
        if self._bar is not None:
            self._bar.update(self._job, completed=row["epoch"], line=line)
        elif row["epoch"] in (1, self.epochs) or time.monotonic() - self._told > 2.0:
            self._told = time.monotonic()
            print(f"epoch {row['epoch']:4.0f}/{self.epochs}  {line}", flush=True)

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()
