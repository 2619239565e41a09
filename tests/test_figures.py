"""Figures: what the logs say is what is drawn, and every word can be read."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taichi_sim.errors import InputError
from viz import figures
from viz.figures import Log

ROOT = Path(__file__).parent.parent
COLUMNS = ("epoch", "samples", "seconds", "return_validation", "return_validation_std")


def run_folder(path, task="rope3d-stop", learner="pods", seed=0, cost=(9.0, 5.0, 3.0), finished=True):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"task": task, "learner": learner, "config": {"seed": seed}}))
    with open(path / "log.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for n, c in enumerate(cost):
            writer.writerow((n + 1, 100 * (n + 1), 2.5 * (n + 1), -c, 2.0))
    if finished:
        result = {"terminal_kinetic_energy": cost[-1] * 1e-6, "final_distance": None, "handle_speed": 0.1 * (1 + seed)}
        (path / "evaluation.json").write_text(json.dumps(result))
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    kept, save = [], figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, stem: (kept.append(figure), save(figure, stem))[1])
    return kept


def texts(figure):
    """(words, box in pixels) of everything that is written."""
    figure.canvas.draw()
    renderer, found = figure.canvas.get_renderer(), []
    for axes in figure.axes:
        found += [
            (t.get_text(), t.get_window_extent(renderer)) for t in (axes.title, axes.xaxis.label, axes.yaxis.label)
        ]
        for n, axis in enumerate((axes.xaxis, axes.yaxis)):
            low, high = axes.bbox.min[n] - 1, axes.bbox.max[n] + 1  # ticks beyond are not drawn
            for text in axis.get_ticklabels(which="both"):
                box = text.get_window_extent(renderer)
                if text.get_visible() and low <= (box.min[n] + box.max[n]) / 2 <= high:
                    found.append((text.get_text(), box))
        if axes.get_legend() is not None:
            found.append(("legend", axes.get_legend().get_window_extent(renderer)))
    return [(text, box) for text, box in found if text]


def assert_readable(figure):
    """No two boxes overlap by more than a pixel, and all lie on the page."""
    boxes = texts(figure)
    assert len(boxes) >= 5
    page = figure.bbox
    for name, box in boxes:
        assert box.x0 > page.x0 - 1 and box.x1 < page.x1 + 1 and box.y0 > page.y0 - 1 and box.y1 < page.y1 + 1, name
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width < 1 or height < 1, (one, other)


def test_one_seed_shows_its_costs_and_half_their_deviation(tmp_path, drawn):
    log = Log.read(run_folder(tmp_path / "run"))
    written = figures.learning_curves([log], tmp_path / "out" / "learning")
    assert [path.name for path in written] == ["learning.png", "learning.svg"]
    assert all(path.stat().st_size > 1000 for path in written)
    for axes, at in zip(drawn[0].axes, ((1, 2, 3), (100, 200, 300), (2.5, 5.0, 7.5)), strict=True):
        (line,) = axes.get_lines()
        assert line.get_xdata().tolist() == list(at) and line.get_ydata().tolist() == [9.0, 5.0, 3.0]
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == 10.0 and band.min() == 3.0
    assert_readable(drawn[0])


def test_seeds_are_averaged_and_learners_kept_apart(tmp_path, drawn):
    logs = [Log.read(run_folder(tmp_path / f"a{n}", seed=n, cost=(9.0 + 2 * n, 4.0 + 2 * n))) for n in (0, 1)]
    logs.append(Log.read(run_folder(tmp_path / "b", learner="pods1", cost=(20.0, 12.0, 11.0))))
    figures.learning_curves(logs, tmp_path / "learning")
    two, other = drawn[0].axes[0].get_lines()
    assert two.get_ydata().tolist() == [10.0, 5.0] and other.get_ydata().tolist() == [20.0, 12.0, 11.0]
    assert two.get_linestyle() != other.get_linestyle()
    band = drawn[0].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == 10.5 and band.min() == 4.5
    labels = [text.get_text() for text in drawn[0].axes[2].get_legend().get_texts()]
    assert labels == ["pods, 2 seeds", "pods1"]
    assert_readable(drawn[0])


def test_bars_are_the_means_over_seeds_by_task_and_learner(tmp_path, drawn):
    logs = [
        Log.read(run_folder(tmp_path / f"{task}-{learner}-{seed}", task, learner, seed, cost=(9.0, 3.0 + seed)))
        for task in ("cable2d-stop", "rope3d-stop", "pendulum2d-stop")
        for learner in ("pods", "pods1")
        for seed in (0, 1)
    ]
    figures.metrics(logs, tmp_path / "metrics")
    kinetic, speed = drawn[0].axes  # no distance: no run has one
    for axes, value in ((kinetic, 3.5e-6), (speed, 0.15)):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx([value] * 6)
        assert len({bar.get_hatch() for bar in axes.patches}) == 2
    assert_readable(drawn[0])


def test_unfinished_runs_have_curves_and_no_metrics(tmp_path):
    log = Log.read(run_folder(tmp_path / "run", finished=False))
    figures.learning_curves([log], tmp_path / "learning")
    with pytest.raises(InputError, match="expected at least one finished run"):
        figures.metrics([log], tmp_path / "metrics")


@pytest.mark.parametrize(
    "damage",
    (
        lambda run: (run / "log.csv").unlink(),
        lambda run: (run / "config.json").write_text("{"),
        lambda run: (run / "log.csv").write_text("epoch\n1\n"),
        lambda run: (run / "log.csv").write_text(",".join(COLUMNS) + "\n"),
        lambda run: (run / "evaluation.json").write_text("{"),
    ),
)
def test_a_damaged_run_is_named_in_one_line(tmp_path, damage):
    run = run_folder(tmp_path / "run")
    damage(run)
    with pytest.raises(InputError, match=str(run)) as caught:
        Log.read(run)
    assert "\n" not in str(caught.value)


def test_a_trajectory_shows_every_performer(task, tmp_path, drawn):
    import torch

    made = task("cable2d-stop", 20)
    start = made.test_states(1)
    still = made.simulator.rollout(start, torch.zeros(1, 20, 2, dtype=torch.float64))
    moved = made.simulator.rollout(start, torch.full((1, 20, 2), 0.1, dtype=torch.float64))
    figures.trajectories(made, [("still", still), ("moved", moved)], tmp_path / "trajectory")
    handle = drawn[0].axes[0].get_lines()
    assert len(handle) == 4  # x and z of both
    assert handle[2].get_ydata() == pytest.approx(moved.p[0].mean(1)[:, 0].numpy())
    speed = drawn[0].axes[2].get_lines()[0].get_ydata()
    assert speed == pytest.approx(still.v[0].square().sum(-1).mean(-1).sqrt().numpy())
    assert_readable(drawn[0])


def test_a_pooled_matrix_keeps_its_largest_entries():
    matrix = np.zeros((2 * figures.PIXELS + 7, 30))
    matrix[1234, 17] = 3.0
    pooled = figures._pooled(matrix)
    assert pooled.shape[0] <= figures.PIXELS and pooled.shape[1] == 30
    assert np.nanmax(pooled) == 3.0 and np.isnan(pooled).sum() == pooled.size - 1


def test_jacobian_and_plots_from_the_command_line(tmp_path):
    def pods(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "pods.py", "plot", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = pods("jacobian", "pendulum2d-stop", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"jacobian-pendulum2d-stop.{s}" for s in ("png", "svg")}
    for arguments, message in (
        (("jacobian",), "expected pods plot jacobian TASK"),
        (("nowhere",), "expected a run folder"),
        (("jacobian", "pendulum2d-stop", "--state", "1000"), "expected numbers of test states"),
    ):
        done = pods(*arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
