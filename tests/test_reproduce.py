"""pods reproduce: what it runs, what it leaves alone, and what its tables say."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from processes import PODS, children

import tasks
from commands import experiments, results
from commands.experiments import EXPERIMENTS, Entry, Variant

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pods(*arguments, cwd):
    return subprocess.run(
        [*PODS, *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


REPRODUCE = ("reproduce", "fig3", "--seeds", "0", "--learners", "bptt", "--budget-minutes", "0.01")


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """One tiny run of figure 3."""
    folder = tmp_path_factory.mktemp("reproduce")
    return folder, pods(*REPRODUCE, cwd=folder)


def test_the_runs_the_table_and_the_figure_are_there(reproduced):
    folder, done = reproduced
    assert done.returncode == 0, done.stderr
    run = folder / "runs/reproduce/0.01min/pendulum2d-stop-n50/bptt-s0"
    found, config = (json.loads((run / name).read_text()) for name in ("evaluation.json", "config.json"))
    assert config["horizon"] == 50 and config["learner"] == "bptt" and config["environment"]["threads"] >= 1
    with open(folder / "results/fig3.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], row["learner"], row["seed"], row["horizon"]) == ("pendulum2d-stop", "bptt", "0", "50")
    assert float(row["return"]) == pytest.approx(found["return"], rel=1e-5)
    assert float(row["seconds"]) == pytest.approx(found["training_seconds"], abs=0.06)
    assert int(row["epochs"]) == config["config"]["epochs"]
    assert f"{found['return']:.3f}" in (folder / "results/fig3.md").read_text()
    assert all((folder / f"results/fig3.{end}").stat().st_size > 1000 for end in ("png", "svg"))


def test_what_is_done_is_not_done_again_and_what_was_cut_off_goes_on(reproduced):
    folder, _ = reproduced
    run = folder / "runs/reproduce/0.01min/pendulum2d-stop-n50/bptt-s0"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    again = pods(*REPRODUCE, cwd=folder)
    assert again.returncode == 0 and "1 runs in" in again.stdout and "1 of them done" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    evaluation = (run / "evaluation.json").read_text()
    (run / "evaluation.json").unlink()
    resumed = pods(*REPRODUCE, cwd=folder)
    assert resumed.returncode == 0 and "0 of them done" in resumed.stdout
    assert (run / "evaluation.json").read_text() == evaluation
    assert before[run / "config.json"] == (run / "config.json").stat().st_mtime_ns


def test_a_report_runs_nothing_and_names_what_is_missing(reproduced):
    folder, _ = reproduced
    told = pods("reproduce", "fig3", "--seeds", "0,1", *REPRODUCE[4:], "--report", "-o", "told", cwd=folder)
    assert told.returncode == 0 and "2 runs in" in told.stdout and "1 of them done" in told.stdout
    assert "## Not run\n\n- pendulum2d-stop bptt seed 1" in (folder / "told/fig3.md").read_text()
    assert not (folder / "runs/reproduce/0.01min/pendulum2d-stop-n50/bptt-s1").exists()


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path):
    """A folder that is in the way of one learner's run."""
    folder = tmp_path / "runs/reproduce/cpu/pendulum2d-stop-n50/pods1-s0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    done = pods("reproduce", "fig3", "--seeds", "0", "--learners", "pods1", "--preset", "cpu", cwd=tmp_path)
    assert done.returncode == 1
    assert "pendulum2d-stop pods1 seed 0: exit 2: " in done.stdout and "config.json" in done.stdout


def test_a_pilot_that_fails_is_named_and_the_others_go_on(tmp_path):
    """A file that is in the way of one learner's pilot."""
    folder = tmp_path / "runs/reproduce/0.01min/pendulum2d-stop-n50"
    folder.mkdir(parents=True)
    (folder / "pilot-pods1").write_text("")
    done = pods(*REPRODUCE[:5], "pods1,bptt", *REPRODUCE[6:], cwd=tmp_path)
    assert done.returncode == 1
    assert "pendulum2d-stop pods1 seed 0: pilot: exit 2: " in done.stdout
    assert (folder / "bptt-s0/evaluation.json").exists()


@pytest.mark.parametrize("number, code, line", (
    (signal.SIGINT, 130, "pods: interrupted"),
    (signal.SIGTERM, 143, "pods: terminated"),
))  # fmt: skip
def test_what_ends_reproduce_ends_its_trainings_too(tmp_path, number, code, line):
    """The exit code within ten seconds, no process left behind, and the learner's folder is there to go on with."""
    command = [*PODS, *REPRODUCE[:-1], "5", "--jobs", "2"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    log = tmp_path / "runs/reproduce/5min/pendulum2d-stop-n50/pilot-bptt/log.csv"
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    trainings = children("train", process.pid)
    assert len(trainings) == 1
    process.send_signal(number)
    _, error = process.communicate(timeout=10)
    assert process.returncode == code and error.strip() == line
    assert not any(pathlib.Path(f"/proc/{child}").exists() for child in trainings)


@pytest.mark.parametrize("flags, message", (
    (("fig5",), "EXPERIMENT: expected all or one of table1, fig3"),
    (("fig3", "--tasks", "pendulum4d"), "the nearest is"),
    (("fig3", "--learners", "sarsa"), "learners: expected some of"),
    (("fig3", "--seeds", "0,x"), "seeds: expected numbers like 0,1,2"),
    (("fig3", "--budget-minutes", "0"), "budget-minutes: expected a number > 0"),
    (("fig3", "--jobs", "0"), "jobs: expected a number >= 1"),
    (("fig3", "--tasks", "cloth-lay"), "at least one run"),
))  # fmt: skip
def test_a_mistake_is_answered_in_one_line(tmp_path, flags, message):
    done = pods("reproduce", *flags, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_experiments_are_those_of_the_paper():
    table = EXPERIMENTS["table1"]
    assert len(table.tasks) == 11 and {"pods-500", "pods-4000"} < {v.label for v in table.variants}
    assert {v.learner for v in table.variants} == {"pods", "sac", "ppo", "gps", "shac", "bptt"}
    assert EXPERIMENTS["fig3"].horizon == 50 and EXPERIMENTS["fig3"].tasks == ("pendulum2d-stop",)
    assert {v.learner for v in EXPERIMENTS["fig3"].variants} == {"pods", "pods1", "bptt"}
    assert EXPERIMENTS["fig6"].tasks == ("cloth-lay",)
    assert sum(v.learner == "pods" for v in EXPERIMENTS["fig6"].variants) >= 3
    assert all(name.endswith("-origin") for name in EXPERIMENTS["fig9"].tasks)
    listed = experiments.entries(table, ["pendulum2d-stop", "cloth-lay"], ["sac", "pods-500"], [0, 1])
    assert [entry.seed for entry in listed] == [0] * 4 + [1] * 4
    assert len({entry.path(pathlib.Path("runs")) for entry in listed}) == 8


# Tables


def result(task, label, seed, cost, curve, gap=None):
    """curve: (seconds, cost on unseen states) after each epoch."""
    log = {"epoch": list(range(1, len(curve) + 1)), "samples": [100.0 * n for n in range(1, len(curve) + 1)]}
    log |= {"seconds": [s for s, _ in curve], "return_validation": [-c for _, c in curve]}
    evaluation = {"return": -cost, "return_std": 2.0, "optimality_gap": gap, "failed": 0}
    evaluation |= {"terminal_kinetic_energy": 1e-6, "final_distance": None, "handle_speed": 0.1}
    where = {"device_type": "cpu", "device": "x", "threads": 1, "torch": "2", "taichi": "1", "python": "3"}
    definition = json.loads(json.dumps(tasks.make(task).definition()))
    config = {
        "horizon": 150,
        "config": {"k": 4},
        "definition": definition,
        "environment": where | {"precision": "float64"},
    }
    return results.Result(Entry(task, None, Variant(label, label), seed), evaluation, config, log)


def cells(text, title):
    """The table below a heading: {task: {column: cell}}."""
    lines = text.split(f"## {title}")[1].split("\n## ")[0].splitlines()
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


FOUND = [
    result("pendulum2d-stop", "pods-4000", 0, 10.0, [(1, 40), (2, 10.4), (3, 10)], 0.01),
    result("pendulum2d-stop", "pods-4000", 1, 12.0, [(1, 40), (2, 20), (4, 10)], 0.03),
    result("pendulum2d-stop", "sac", 0, 22.0, [(10, 50), (30, 22), (60, 21)], 1.2),
    result("pendulum2d-stop", "ppo", 0, 33.0, [(10, 50), (60, 33)], 2.0),
]


def test_the_report_has_means_over_seeds_and_times_to_a_level():
    text = results.report("table1", FOUND, [Entry("cloth-lay", None, Variant("sac", "sac"), 0)])
    returns = cells(text, "Return")["pendulum2d-stop"]
    assert returns["pods-4000"] == "-11.000 ± 2.00 [1.414, n=2]" and returns["sac"] == "-22.000 ± 2.00"
    gaps = cells(text, "Optimality gap")["pendulum2d-stop"]
    assert gaps == {"pods-4000": "2.00% (3.00%)", "sac": "120.00%", "ppo": "200.00%"}
    assert cells(text, "Seconds of training")["pendulum2d-stop"]["sac"] == "60 s, 0.00"
    own = cells(text, "Seconds until within 5% of its lowest cost")["pendulum2d-stop"]
    assert own == {"pods-4000": "3", "sac": "30", "ppo": "60"}  # 2 and 4 s to 10.5; 30 s to 22.05
    level = cells(text, "Seconds until within 5% of SAC's cost at the end")["pendulum2d-stop"]
    assert level == {"pods-4000": "2", "sac": "30", "ppo": "never"}
    assert "- cloth-lay sac seed 0" in text


def test_a_run_that_diverged_is_timed_by_the_best_it_had():
    found = [result("pendulum2d-stop", "shac", 0, 60.0, [(1, 50), (20, 10), (60, 60)])]
    own = cells(results.report("table1", found, []), "Seconds until within 5% of its lowest cost")
    assert own["pendulum2d-stop"]["shac"] == "20"


@pytest.mark.parametrize("name", ("fig8", "fig9", "fig10"))
def test_a_figures_table_has_what_it_draws(name):
    column, title = results.PANELS[name]
    found = [result("pendulum2d-stop", "shac", seed, 60.0, [(1, 50)]) for seed in (0, 1)]
    for n, r in enumerate(found):
        r.evaluation[column] = 0.1 + 0.2 * n
    assert cells(results.report(name, found, []), title.capitalize()[:12])["pendulum2d-stop"]["shac"] == "0.2"


def test_runs_with_other_settings_than_todays_are_listed():
    variant = next(v for v in EXPERIMENTS["table1"].variants if v.label == "pods-4000")
    settings = dict(variant.settings)

    def listed(**ran):
        r = result("pendulum2d-stop", "pods-4000", 0, 10.0, [(1, 10)])
        r.config["config"] = settings | ran
        r.config["definition"]["N"] = ran.pop("N", 150)
        entry = Entry("pendulum2d-stop", None, variant, 0)
        return results.report("table1", [dataclasses.replace(r, entry=entry)], [])

    assert "no longer set" not in listed()
    assert "- pendulum2d-stop pods-4000 seed 0: steps 7" in listed(steps=7)
    assert "- pendulum2d-stop pods-4000 seed 0: another definition of the task" in listed(N=149)


def test_the_report_stands_beside_the_paper_in_ratios():
    beside = cells(results.report("table1", FOUND, []), "Beside the paper")["pendulum2d-stop"]
    assert beside["pods-4000"] == "1.00, 1 × (1.00, 1 ×)"
    assert beside["sac"] == "2.00, 10 × (1.11, 32 ×)"  # 22/11, 30/3; 20/18, 4.8/0.15
    assert beside["gps"] == "- (2.06, 4 ×)"
