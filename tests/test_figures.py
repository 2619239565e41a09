"""Figures: that their lines and bars are the numbers of the run folders, that they can be read, and what is refused."""

import csv
import itertools
import json
import os
import xml.etree.ElementTree

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import torch
from processes import pods, refused

import pods as command_line
import taichi_sim
from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import InputError
from viz import experiments, figures
from viz.figures import Log

COLUMNS = ("epoch", "samples", "seconds", "return_validation", "return_validation_std")
MEASURED = ("handle_speed_validation", "handle_speed_validation_std")


def write_run(folder, task="pendulum2d-stop", learner="pods", seed=0, epochs=60, evaluated=True):
    """A run folder as a training leaves it, with the numbers of no training."""
    folder.mkdir(parents=True)
    random = np.random.default_rng((seed, len(task), len(learner), epochs))
    config = {"task": task, "learner": learner, "config": {"seed": seed}, "horizon": 150}
    (folder / "config.json").write_text(json.dumps(config))
    rows = []
    for n in range(epochs):
        cost = 9 + 90 * np.exp(-0.1 * n) * (1 + 0.3 * random.random())
        rows.append((n + 1, 19200 * (n + 1), 1.7 * (n + 1) + random.random(), -cost, 0.4 * cost))
    with open(folder / "log.csv", "w", newline="") as file:
        csv.writer(file).writerows([(*COLUMNS, *MEASURED, "more"), *((*row, 0.1 / row[0], 0.01, 7) for row in rows)])
    if evaluated:
        distance = None if task.endswith("stop") else 10 ** random.uniform(-5, -2)
        result = {"terminal_kinetic_energy": 10 ** random.uniform(-9, -4), "final_distance": distance}
        result |= {"handle_speed": random.uniform(0.08, 0.15), "return": -9.0, "failed": 0}
        (folder / "evaluation.json").write_text(json.dumps(result))
    return folder


def column(folder, name):
    with open(folder / "log.csv", newline="") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    made, save = [], figures.save
    monkeypatch.setattr(figures, "save", lambda figure, stem: made.append(figure) or save(figure, stem))
    return made


@pytest.fixture
def sketched(monkeypatch):
    """The figures that would have been saved."""
    made = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: made.append(figure))
    return made


def check_files(written, stem):
    """A picture that is not of one colour, and the same as SVG."""
    assert written == [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    picture = matplotlib.image.imread(written[0])
    assert min(picture.shape[:2]) >= 300 and picture.std() > 0.01
    root = xml.etree.ElementTree.parse(written[1]).getroot()
    assert root.tag.endswith("svg") and sum(1 for part in root.iter() if part.tag.endswith("path")) > 10


def check_legible(figure):
    """No text lies on another one or leaves the figure."""
    figure.canvas.draw()
    pen, texts = figure.canvas.get_renderer(), []
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        texts += [axes.xaxis.get_offset_text(), axes.yaxis.get_offset_text()]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted((low, high))
            ticks, near = axis.get_major_ticks() + axis.get_minor_ticks(), 1e-9 * (high - low)
            shown = [tick for tick in ticks if low - near <= tick.get_loc() <= high + near]
            texts += [label for tick in shown for label in (tick.label1, tick.label2)]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    texts += [text for text in (figure._supxlabel, figure._supylabel) if text is not None]
    texts = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [text.get_window_extent(pen) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        slope = np.radians(one.get_rotation())
        if 0 < slope < 1 and one.get_rotation() == other.get_rotation() and one.axes is other.axes:
            height = one.get_fontsize() * figure.dpi / 72
            assert abs(a.x1 - b.x1) * np.sin(slope) >= height, (one, other)  # slanted side by side
        else:
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(overlap) <= 0.5, (one, other)
    assert len(texts) > 8


# Learning curves and metrics


def test_learning_curves_show_the_costs_of_the_log(tmp_path, drawn):
    runs = [write_run(tmp_path / learner, learner=learner) for learner in ("pods", "pods1")]
    stem = tmp_path / "out" / "learning"
    check_files(figures.learning_curves([Log.read(run) for run in runs], stem), stem)
    (figure,) = drawn
    assert len(figure.axes) == 3 and figure.axes[0].get_title() == "pendulum2d-stop"
    for axes, name in zip(figure.axes, ("epoch", "samples", "seconds"), strict=True):
        assert axes.get_yscale() == "log" and len(axes.lines) == len(axes.collections) == 2
        for run, line, band in zip(runs, axes.lines, axes.collections, strict=True):
            cost, spread = -column(run, "return_validation"), column(run, "return_validation_std")
            assert np.allclose(line.get_xdata(), column(run, name)) and np.allclose(line.get_ydata(), cost)
            assert line.get_label() == run.name
            edge = band.get_paths()[0].vertices
            for at, low, high in zip(column(run, name), cost, cost + spread / 2, strict=True):
                heights = edge[np.isclose(edge[:, 0], at), 1]
                assert heights.min() == pytest.approx(low) and heights.max() == pytest.approx(high)
        assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    check_legible(figure)


def test_several_seeds_are_a_mean_and_half_a_deviation(tmp_path, sketched):
    """At the same seconds, of runs of different lengths and speeds; where all have been."""
    runs = [write_run(tmp_path / f"run{seed}", seed=seed, epochs=epochs) for seed, epochs in enumerate((40, 50, 60))]
    figures.learning_curves([Log.read(run) for run in runs], tmp_path / "learning")
    own = [column(run, "seconds") for run in runs]
    assert len({tuple(seconds[:40]) for seconds in own}) == 3
    seconds = own[0][(own[0] >= max(s[0] for s in own)) & (own[0] <= min(s[-1] for s in own))]
    values = [-column(run, "return_validation") for run in runs]
    cost = np.stack([np.interp(seconds, *pair) for pair in zip(own, values, strict=True)])
    axes = sketched[0].axes[2]
    (line,), (band,) = axes.lines, axes.collections
    assert len(seconds) > 20 and np.allclose(line.get_xdata(), seconds) and np.allclose(line.get_ydata(), cost.mean(0))
    assert line.get_label() == "pods, 3 seeds"
    edge = band.get_paths()[0].vertices
    mean, half = cost.mean(0), cost.std(0) / 2
    for at, low, high in zip(seconds, mean - half, mean + half, strict=True):
        heights = edge[np.isclose(edge[:, 0], at), 1]
        assert heights.min() == pytest.approx(low) and heights.max() == pytest.approx(high)
    check_legible(sketched[0])


NAMES = ("pendulum2d-stop", "pendulum2d-origin", "double3d-origin", "cloth-lay")


@pytest.fixture
def many(tmp_path):
    """Two learners with three seeds each on four tasks; one is not finished."""
    wanted = itertools.product(NAMES, ("pods", "pods1"), range(3))
    runs = [
        write_run(tmp_path / f"{t}-{m}-{s}", t, m, s, evaluated=(t, m, s) != (NAMES[0], "pods", 0))
        for t, m, s in wanted
    ]
    return [Log.read(run) for run in runs]


def test_each_task_has_a_row_of_learning_curves(many, tmp_path, sketched):
    figures.learning_curves(many, tmp_path / "learning")
    (figure,) = sketched
    assert [axes.get_title() for axes in figure.axes[::3]] == sorted(NAMES) and len(figure.axes) == 12
    assert all(len(axes.lines) == 2 for axes in figure.axes)
    check_legible(figure)


def test_metrics_are_means_over_seeds_and_their_range(many, tmp_path, drawn):
    check_files(figures.metrics(many, tmp_path / "metrics"), tmp_path / "metrics")
    (figure,) = drawn
    keys = ("terminal_kinetic_energy", "final_distance", "handle_speed")
    for axes, key, scale in zip(figure.axes, keys, ("log", "log", "linear"), strict=True):
        assert axes.get_yscale() == scale
        assert [label.get_text() for label in axes.get_xticklabels()] == sorted(NAMES)
        assert [bars.get_label() for bars in axes.containers if hasattr(bars, "patches")] == ["pods", "pods1"]
        for bars in (c for c in axes.containers if hasattr(c, "patches")):
            seen = set()
            lines = bars.errorbar.lines[2][0].get_segments()
            for bar, line in zip(bars.patches, lines, strict=True):
                middle = bar.get_x() + bar.get_width() / 2
                name = sorted(NAMES)[round(middle)]
                seen.add(name)
                group = [
                    log.evaluation[key]
                    for log in many
                    if (log.task, log.label) == (name, bars.get_label()) and log.evaluation
                ]
                assert bar.get_height() == pytest.approx(np.mean(group), rel=1e-9)
                assert line[:, 1] == pytest.approx([min(group), max(group)], rel=1e-6)
            assert seen == {n for n in NAMES if not (key == "final_distance" and n.endswith("stop"))}
        patches = [p for c in axes.containers if hasattr(c, "patches") for p in c.patches]
        spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in patches)
        assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(spans))
    check_legible(figure)


@pytest.mark.parametrize("names, learners", ((("pendulum2d-stop",), 3), (tuple("abcdefghijk"), 7)))
def test_panels_show_a_column_of_the_log_for_every_task_and_learner(tmp_path, drawn, names, learners):
    """One panel or eleven, every learner in each but one: means over seeds, and names that fit."""
    labels = [f"learner-{n}" for n in range(learners)]
    runs = {
        (task, label, seed): write_run(tmp_path / task / f"{label}-{seed}", task=task, learner=label, seed=seed)
        for task in names
        for label in labels
        for seed in (0, 1)
        if (task, label) != (names[0], labels[0])
    }
    logs = [Log.read(path, label) for (_, label, _), path in runs.items()]
    for column_, sign in (("handle_speed", 1), ("return", -1)):
        stem = tmp_path / "out" / column_
        check_files(experiments.panels(logs, column_, "a quantity [m]", stem), stem)
        figure = drawn.pop()
        assert [axes.get_title() for axes in figure.axes] == sorted(names)
        for axes in figure.axes:
            for line in axes.lines:
                here = [runs[axes.get_title(), line.get_label(), seed] for seed in (0, 1)]
                at = line.get_xdata()
                assert set(at) <= set(column(here[0], "seconds")) and len(at) > 20
                curves = [(column(run, "seconds"), column(run, f"{column_}_validation")) for run in here]
                value = np.mean([np.interp(at, *curve) for curve in curves], 0)
                assert line.get_ydata() == pytest.approx(sign * value, rel=1e-12)
        shown = [{line.get_label() for line in axes.lines} for axes in figure.axes]
        assert shown[0] == set(labels[1:]) and all(found == set(labels) for found in shown[1:])
        assert {text.get_text() for text in figure.legends[0].get_texts()} == set().union(*shown)
        check_legible(figure)


def test_learners_are_told_apart_in_grey(many, tmp_path, sketched):
    figures.metrics(many, tmp_path / "metrics")
    bars = [c for c in sketched[0].axes[0].containers if hasattr(c, "patches")]
    assert len({c.patches[0].get_hatch() for c in bars}) == len(bars) == 2


def test_metrics_of_stop_tasks_have_no_distance(tmp_path, sketched):
    figures.metrics([Log.read(write_run(tmp_path / "run"))], tmp_path / "metrics")
    assert [axes.get_title() for axes in sketched[0].axes] == ["terminal kinetic energy [J]", "mean handle speed [m/s]"]
    check_legible(sketched[0])


def test_metrics_of_unfinished_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="run: expected at least one finished run, with an evaluation.json, got none"):
        figures.metrics([Log.read(write_run(tmp_path / "run", evaluated=False))], tmp_path / "metrics")


DAMAGE = {
    "no folder": lambda run: [path.unlink() for path in run.iterdir()] and run.rmdir(),
    "no config": lambda run: (run / "config.json").unlink(),
    "torn config": lambda run: (run / "config.json").write_text('{"task": "pendu'),
    "config of another kind": lambda run: (run / "config.json").write_text("[]"),
    "no seed": lambda run: (run / "config.json").write_text('{"task": "a", "learner": "b", "config": {}}'),
    "no log": lambda run: (run / "log.csv").unlink(),
    "an empty log": lambda run: (run / "log.csv").write_text(""),
    "a log without rows": lambda run: (run / "log.csv").write_text(",".join(COLUMNS) + "\n"),
    "a log without a column": lambda run: (run / "log.csv").write_text("epoch,samples\n1,2\n"),
    "a torn row": lambda run: (run / "log.csv").write_text(",".join(COLUMNS) + "\n1,2,3\n"),
    "words in the log": lambda run: (run / "log.csv").write_text(",".join(COLUMNS) + "\n1,2,3,a,b\n"),
    "bytes in the log": lambda run: (run / "log.csv").write_bytes(b"\xff\xfe\x00"),
    "a torn evaluation": lambda run: (run / "evaluation.json").write_text('{"return": -9'),
    "an evaluation without metrics": lambda run: (run / "evaluation.json").write_text('{"return": -9}'),
    "an evaluation of another kind": lambda run: (run / "evaluation.json").write_text("7"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_answered_in_one_line(tmp_path, monkeypatch, capfd, damage):
    damage(write_run(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    refused(*run_here(capfd, "plot", "run"), "run: expected a")
    assert not (tmp_path / "figures").exists()


# Trajectories and the jacobian


def test_trajectories_show_the_first_rollout(task, tmp_path, drawn):
    made = task("double3d-stop", 30)
    start = made.test_states(2)
    policies = {"policy": Policy(made, 0), "no motion": lambda o: torch.zeros(2, dtype=o.dtype)}
    performances = [(name, closed_loop(made, act, start)) for name, act in policies.items()]
    check_files(figures.trajectories(made, performances, tmp_path / "rows"), tmp_path / "rows")
    (figure,) = drawn
    handles, payload, speed, actions = figure.axes
    t = 0.024 * np.arange(31)
    for n, (name, rows) in enumerate(performances):
        x, v, p, a = (getattr(rows, k)[0].numpy() for k in "xvpa")
        for k, axis in enumerate("xyz"):
            line = handles.lines[3 * n + k]
            assert line.get_label() == f"{axis}, {name}"
            assert np.allclose(line.get_xdata(), t) and np.allclose(line.get_ydata(), p[:, 0, k])
            off = (x - made.goal.numpy())[:, :, k].mean(1)  # two equal masses
            assert np.allclose(payload.lines[3 * n + k].get_ydata(), off, atol=1e-12)
        assert np.allclose(speed.lines[n].get_ydata(), np.sqrt((v**2).sum(-1).mean(1)))
        for k in range(2):
            line = actions.lines[2 * n + k]
            assert line.get_drawstyle() == "steps-post" and np.allclose(line.get_ydata(), a[:, k])
    limits = [line.get_ydata()[0] for line in actions.lines[4:]]
    assert sorted(limits) == [-made.limit, made.limit]
    styles = {panel.lines[0].get_linestyle() for panel in figure.axes}
    assert len(styles) == 1 and handles.lines[3].get_linestyle() not in styles
    check_legible(figure)


def test_in_the_plane_the_second_axis_is_called_z(task, tmp_path, sketched):
    made = task("pendulum2d-stop", 20)
    rows = closed_loop(made, Policy(made, 0), made.test_states(1))
    figures.trajectories(made, [("policy", rows)], tmp_path / "rows")
    assert [line.get_label() for line in sketched[0].axes[0].lines] == ["x, policy", "z, policy"]
    check_legible(sketched[0])


def test_a_pixel_of_the_jacobian_shows_its_largest_entry():
    random = np.random.default_rng(0)
    matrix = random.random((2503, 1300)) * (random.random((2503, 1300)) < 0.2)
    matrix[:3, :2] = 0.0
    pooled = figures._pooled(matrix)
    assert max(pooled.shape) <= figures.PIXELS and np.isnan(pooled[0, 0])
    rows, columns = -(-2503 // pooled.shape[0]), -(-1300 // pooled.shape[1])
    for i, j in itertools.product(range(0, pooled.shape[0], 61), range(0, pooled.shape[1], 53)):
        largest = matrix[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].max()
        assert pooled[i, j] == largest or (np.isnan(pooled[i, j]) and largest == 0)
    assert np.nanmax(pooled) == matrix.max() and np.nanmax(pooled[-1]) == matrix[(len(pooled) - 1) * rows :].max()


def test_a_small_jacobian_is_drawn_entry_by_entry(task, tmp_path, drawn):
    made = task("pendulum3d-stop", 6)
    rows = made.simulator.rollout(made.test_states(1), torch.full((1, 6, 2), 0.1, dtype=torch.float64))
    S = made.simulator.jacobian(rows)[0].numpy()
    check_files(figures.jacobian(made, S, tmp_path / "jacobian"), tmp_path / "jacobian")
    left, right, bar = drawn[0].axes
    shown, block = (axes.images[0].get_array() for axes in (left, right))
    expected = np.abs(S.reshape(6 * 8, 6 * 2))
    assert shown.shape == expected.shape
    assert np.array_equal(np.ma.filled(np.ma.masked_invalid(shown), 0.0), expected)
    assert np.array_equal(np.asarray(block), np.abs(S[5, :, 3])) and right.get_title() == "∂s_6/∂a_3"
    upper = np.triu(np.ones((6, 6), dtype=bool), 1).repeat(S.shape[1], 0).repeat(2, 1)
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown))[upper].all()  # later actions change nothing
    assert isinstance(left.images[0].norm, matplotlib.colors.LogNorm)
    check_legible(drawn[0])


# The command


def run_here(capfd, *arguments):
    """Exit code and what was said of a command in this process."""
    try:
        code = command_line.main([str(a) for a in arguments])
    except SystemExit as error:
        code = error.code
    return code, *capfd.readouterr()


def test_runs_of_several_tasks_are_plotted_without_simulating(tmp_path, monkeypatch, capfd):
    write_run(tmp_path / "one"), write_run(tmp_path / "two", "cloth-lay")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_here(capfd, "plot", "one", "two", "-o", "new/folder")
    files = [f"new/folder/{stem}.{suffix}" for stem in ("learning", "metrics") for suffix in ("png", "svg")]
    assert (code, err) == (0, "") and out.splitlines() == [f"written to {file}" for file in files]
    assert all((tmp_path / file).stat().st_size > 1000 for file in files)


def test_an_unfinished_run_has_no_metrics(tmp_path, monkeypatch, capfd):
    write_run(tmp_path / "one", evaluated=False), write_run(tmp_path / "two", "cloth-lay", evaluated=False)
    monkeypatch.chdir(tmp_path)
    assert run_here(capfd, "plot", "one", "two")[0] == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"learning.png", "learning.svg"}


def test_a_real_run_is_plotted_with_its_trajectory(task, tmp_path, monkeypatch, capfd):
    taichi_sim.init("cpu")
    monkeypatch.chdir(tmp_path)
    few = ("--horizon", 20, "--k", 8, "--steps", 2, "--epochs", 2, "--device", "cpu")
    assert run_here(capfd, "train", "pendulum2d-stop", *few, "--run", "run")[0] == 0
    code, out, err = run_here(capfd, "plot", "run", "--state", 3, "--device", "cpu")
    assert (code, err) == (0, "") and len(out.splitlines()) == 6
    stems = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert stems == {"learning", "metrics", "trajectory"}


def test_the_jacobian_is_plotted_from_the_command_line(tmp_path):
    done = pods("plot", "jacobian", "pendulum2d-stop", "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    stem = tmp_path / "figures" / "jacobian-pendulum2d-stop"
    names = [f"figures/{stem.name}.{suffix}" for suffix in ("png", "svg")]
    assert done.stdout.splitlines() == [f"written to {name}" for name in names]
    check_files([tmp_path / name for name in names], stem)


@pytest.mark.parametrize("arguments, message", [
    (("jacobian",), "TASK: expected pods plot jacobian TASK, got jacobian"),
    (("jacobian", "pendulum2d-stpo"), "the nearest is 'pendulum2d-stop'"),
    (("jacobian", "pendulum2d-stop", "--state", "1000"), "states: expected numbers of test states, 0 to 999"),
    (("nowhere",), "run: expected a run folder with config.json and log.csv, got nowhere"),
    (("pendulum2d-stop",), "run: expected a run folder with config.json and log.csv, got pendulum2d-stop"),
    (("one", "two", "-o", "file.txt/figures"), "output: expected a place to write to, got file.txt/figures"),
    (("one", "two", "-o", "file.txt"), "output: expected a place to write to, got file.txt"),
])  # fmt: skip
def test_a_mistake_is_answered_in_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    write_run(tmp_path / "one"), write_run(tmp_path / "two", "cloth-lay")
    (tmp_path / "file.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    refused(*run_here(capfd, "plot", *arguments), message)
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "one", "two"]
