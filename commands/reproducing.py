"""pods reproduce: the paper's experiments, run after run."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from taichi_sim.errors import expect

from .experiments import EXPERIMENTS, Entry, entries

PILOT = (0.2, 0.5)  # minutes: a tenth of the budget, but at least and at most so much
LEAST = 3  # epochs of a pilot, whatever they take
SHARE = 0.97  # of the budget that the epochs planned are expected to take


def reproduce(options):
    import tasks

    from .results import write_results

    names = [name for name in EXPERIMENTS if name != "tuning"] if options.experiment == "all" else [options.experiment]
    expect(names[0] in EXPERIMENTS, "EXPERIMENT", f"all or one of {', '.join(EXPERIMENTS)}", options.experiment)
    chosen, learners = _list(options.tasks), _list(options.learners)
    for name in chosen or ():
        tasks.make(name)
    labels = {word for e in EXPERIMENTS.values() for v in e.variants for word in (v.label, v.learner)}
    for name in learners or ():
        expect(name in labels, "learners", f"some of {', '.join(sorted(labels))}", repr(name))
    seeds = [_seed(text) for text in _list(options.seeds)]
    budget, jobs = options.budget_minutes, options.jobs
    expect(budget is None or budget > 0, "budget-minutes", "a number > 0", budget)
    expect(jobs >= 1, "jobs", "a number >= 1", jobs)
    folder = Path(options.runs) / (f"{budget:g}min" if budget else options.preset or "auto")
    listed = {name: entries(EXPERIMENTS[name], chosen, learners, seeds) for name in names}
    wanted = list(dict.fromkeys(entry for each in listed.values() for entry in each))
    expect(len(wanted) > 0, "EXPERIMENT", "at least one run with these tasks and learners", "none")
    missing = [entry for entry in wanted if not done(entry.path(folder))]
    hours = f", at most {len(missing) * budget / 60 / jobs:.1f} h of training" if budget and not options.report else ""
    print(f"{len(wanted)} runs in {folder}, {len(wanted) - len(missing)} of them done{hours}", flush=True)
    failed = 0 if options.report else Runner(folder, options).run(missing)
    for name, each in listed.items():
        for path in write_results(name, each, folder, Path(options.output)):
            print(f"written to {path}")
    return 1 if failed else 0


def done(run: Path) -> bool:
    return (run / "evaluation.json").exists()


class PilotFailed(Exception):
    """A pilot run ended with an error, and so would the training."""


class Runner:
    """Runs entries as processes of their own, `jobs` side by side, each with its share of the CPU's threads."""

    def __init__(self, folder: Path, options):
        self.folder, self.options = folder, options
        self.threads = options.threads or max(1, (os.cpu_count() or 1) // options.jobs)
        self._lock, self._processes, self._stopped = threading.Lock(), set(), False
        self._pilots = collections.defaultdict(threading.Lock)

    def run(self, missing: list[Entry]) -> int:
        """How many failed."""
        failed = 0
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            futures = {pool.submit(self._train, entry): entry for entry in missing}
            try:
                for n, future in enumerate(concurrent.futures.as_completed(futures), 1):
                    said, good = future.result()
                    failed += not good
                    print(f"[{n}/{len(missing)}] {futures[future]}: {said}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise
        return failed

    def stop(self):
        """End the trainings; their folders can be resumed."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()

    def _train(self, entry: Entry) -> tuple[str, bool]:
        path, began = entry.path(self.folder), time.monotonic()
        if (path / "config.json").exists():
            code, error = self._pods(path, "--resume", path)
        else:
            shutil.rmtree(path, ignore_errors=True)  # what was cut off before its config was written
            flags = self._flags(entry)
            try:
                epochs = self._planned(entry, flags)
            except PilotFailed as failure:
                return str(failure), False
            code, error = self._pods(path, *flags, *epochs, "--seed", entry.seed, "--run", path)
        if code:
            return f"exit {code}: {error}, see {path}.txt", False
        found = json.loads((path / "evaluation.json").read_text())
        return f"return {found['return']:.4f} after {(time.monotonic() - began) / 60:.1f} min", True

    def _flags(self, entry: Entry) -> list:
        flags = [entry.task, "--learner", entry.variant.learner]
        flags += ["--horizon", entry.horizon] if entry.horizon else []
        flags += ["--preset", self.options.preset] if self.options.preset else []
        flags += ["--precision", self.options.precision, "--device", self.options.device, "--threads", self.threads]
        return flags + [
            word for name, value in entry.variant.settings for word in (f"--{name.replace('_', '-')}", value)
        ]

    def _planned(self, entry: Entry, flags: list) -> list:
        """--epochs to fill the time budget, from a short run whose speed is kept for other seeds."""
        budget = self.options.budget_minutes
        if budget is None:
            return []
        path = entry.path(self.folder).parent / f"pilot-{entry.variant.label}"
        with self._pilots[path]:
            if not done(path):
                minutes = min(max(budget / 10, PILOT[0]), PILOT[1])
                self._pilot(entry, path, *flags, "--minutes", minutes, "--epochs", 10**6)
            if len(_epoch_ends(path)) < LEAST:  # most of it went into compiling kernels, which are in the cache now
                self._pilot(entry, path, *flags, "--epochs", LEAST)
        seconds = _epoch_ends(path)
        late = (len(seconds) - 1) // 2  # the first epochs improve their rollouts with most effort
        each = (seconds[-1] - seconds[late]) / (len(seconds) - 1 - late)
        return ["--epochs", max(1, int(SHARE * 60 * budget / each))]

    def _pilot(self, entry: Entry, path: Path, *arguments):
        shutil.rmtree(path, ignore_errors=True)
        code, error = self._pods(path, *arguments, "--run", path)
        if code:
            raise PilotFailed(f"pilot: exit {code}: {error}, see {path}.txt")

    def _pods(self, path: Path, *arguments) -> tuple[int, str]:
        """`pods train` with these arguments, its output in PATH.txt; exit code and last line on stderr."""
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(Path(__file__).parents[1] / "pods.py"), "train", *map(str, arguments)]
        with open(path.with_name(f"{path.name}.txt"), "a") as log:
            with self._lock:
                if self._stopped:
                    return 130, "interrupted"
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True)
                self._processes.add(process)
            error = process.communicate()[1]
            log.write(error)
        with self._lock:
            self._processes.discard(process)
        return process.returncode, error.strip().rpartition("\n")[2].removeprefix("pods: ")


def _epoch_ends(run: Path) -> list[float]:
    """Seconds of training at the end of each epoch of a finished run."""
    from learner.run import Run

    return [row["seconds"] for row in Run.open(run).rows()]


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _seed(text: str) -> int:
    expect(text.isdecimal() and int(text) < 2**31, "seeds", "numbers like 0,1,2", repr(text))
    return int(text)
