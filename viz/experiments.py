"""The paper's figures 4, 8, 9 and 10: a panel for each task, a line for each learner, against training time."""

from __future__ import annotations

from pathlib import Path

from . import figures
from .figures import COLOURS, STYLES, Log

ACROSS = 4  # panels
INCHES = 1.3  # of a learner's name in the legend


def panels(logs: list[Log], name: str, title: str, stem: Path) -> list[Path]:
    """`NAME_validation` of every run; of several seeds the mean. Half a deviation over the start states is shaded,
    upwards, as in the paper.
    """
    tasks, learners = sorted({log.task for log in logs}), list(dict.fromkeys(log.label for log in logs))
    across = min(ACROSS, len(tasks))
    down = -(-len(tasks) // across)
    figure = figures.new_figure(3.4 * across, 0.6 + 2.6 * down)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    sign = -1 if name == "return" else 1
    for task, axes in zip(tasks, grid, strict=False):
        for n, learner in enumerate(learners):
            group = [log for log in logs if (log.task, log.label) == (task, learner)]
            if not group:
                continue
            seconds, columns = figures.side_by_side(group, "seconds")
            value, spread = (columns[f"{name}_validation{end}"].mean(0) for end in ("", "_std"))
            style = {"color": COLOURS[n % len(COLOURS)]}
            axes.fill_between(seconds, sign * value, sign * value + spread / 2, alpha=0.12, linewidth=0, **style)
            axes.plot(seconds, sign * value, linestyle=STYLES[n % len(STYLES)], label=learner, **style)
        axes.set(title=task, xscale="log", yscale="log")
        axes.xaxis.set_minor_formatter("")
        axes.tick_params(axis="y", which="minor", labelsize="x-small")  # labelled where there is one power of ten only
        axes.grid(alpha=0.3)
    for axes in grid[len(tasks) :]:
        axes.remove()
    figure.supxlabel("training time [s]")
    figure.supylabel(title)
    lines = {line.get_label(): line for axes in grid[: len(tasks)] for line in axes.get_lines()}
    fit = max(1, int(figure.get_figwidth() / INCHES))
    figure.legend(
        lines.values(), lines.keys(), loc="outside upper center", ncols=min(fit, len(lines)), fontsize="small"
    )
    return figures.save(figure, stem)
