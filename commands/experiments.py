"""The paper's tables and figures as lists of runs, and what the paper reports of them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import tasks


@dataclasses.dataclass(frozen=True)
class Variant:
    """A learner with some of its settings given: what a column of table 1 or a line of a figure is."""

    label: str
    learner: str
    settings: tuple[tuple[str, int | float], ...] = ()


def pods(k: int) -> Variant:
    """PODS with k rollouts an epoch and settings that suit so many."""
    steps, memory = (120, 8) if k < 500 else (240, 2) if k < 4000 else (480, 1)
    improvements = 1 if k < 500 else 3
    settings = {"k": k, "improvements": improvements, "steps": steps, "batch": 512, "memory": memory, "rate": 3e-3}
    return Variant(f"pods-{k}", "pods", tuple(settings.items()))


ORDINARY = tuple(Variant(name, name) for name in ("pods", "pods1", "bptt", "shac", "gps", "ppo", "sac"))
TABLE = (pods(500), pods(4000), *(v for v in ORDINARY if v.learner in ("sac", "ppo", "gps", "shac", "bptt")))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """tasks and variants: what is run for it    horizon: in place of the tasks' own, if given"""

    title: str
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    horizon: int | None = None


_ALL = tuple(tasks.names())
_POINTWISE = tuple(name for name in _ALL if name != "cloth-lay")
_ORIGIN = tuple(name for name in _ALL if name.endswith("-origin"))
EXPERIMENTS = {
    "table1": Experiment("Return and training time of every learner", _ALL, TABLE),
    "fig3": Experiment(
        "First and second order PODS and BPTT, rollouts of 50 steps",
        ("pendulum2d-stop",),
        tuple(v for v in ORDINARY if v.learner in ("pods", "pods1", "bptt")),
        50,
    ),
    "fig4": Experiment("Cost on unseen start states", _POINTWISE, TABLE),
    "fig6": Experiment(
        "Cloth: PODS with several batch sizes beside SAC",
        ("cloth-lay",),
        (pods(32), pods(128), pods(500), Variant("sac", "sac")),
    ),
    "fig8": Experiment("Terminal kinetic energy", _POINTWISE, TABLE),
    "fig9": Experiment("Final distance to the origin", _ORIGIN, TABLE),
    "fig10": Experiment("Mean handle speed", _POINTWISE, TABLE),
}


# What was tried for each learner, at equal time, on the task below, where it differs from the preset for a CPU. The
# best became that preset, or for PODS what `pods` above says.
_TRIED = {
    "pods": (
        {},
        {"batch": 1024},
        {"batch": 1024, "steps": 200},
        {"batch": 512, "steps": 120, "memory": 8},
        {"k": 512, "batch": 1024, "steps": 200, "memory": 1},
        {"batch": 1024, "steps": 120, "rate": 3e-3},
        {"batch": 512, "steps": 120, "memory": 8, "improvements": 3},
        {"batch": 512, "steps": 120, "memory": 8, "improvements": 10},
    ),
    "bptt": (
        {"k": 256, "steps": 4, "clip": 1.0},
        {"k": 256, "steps": 4, "clip": 1.0, "rate": 3e-3},
        {"k": 256, "steps": 4, "clip": 1.0, "rate": 3e-4},
        {"k": 64, "steps": 2, "clip": 1.0},
        {"k": 256, "steps": 1, "clip": 1.0},
        {},
    ),
    "shac": (
        {"k": 128, "passes": 16, "minibatches": 4},
        {"k": 128, "passes": 4, "minibatches": 4},
        {"k": 128, "passes": 4, "minibatches": 4, "rate": 1e-3, "critic_rate": 1e-3},
        {"k": 128, "passes": 4, "minibatches": 4, "window": 50},
        {"k": 128, "passes": 4, "minibatches": 4, "gamma": 0.98, "trace": 0.9},
        {},
    ),
    "gps": (
        {},
        {"memory": 4},
        {"kl": 1.0, "kl_least": 1.0, "std_least": 0.1},
        {"kl_least": 0.1, "std_least": 0.03},
        {"k": 64, "batch": 2048},
        {"steps": 240, "batch": 512},
    ),
    "ppo": (
        {},
        {"gamma": 0.99},
        {"gamma": 0.99, "std": 0.5},
        {"gamma": 0.99, "rate": 1e-3},
        {"gamma": 0.99, "k": 512, "passes": 3, "minibatches": 16, "rate": 5e-4},
        {"gamma": 0.99, "minibatches": 16, "passes": 5},
    ),
    "sac": (
        {"gamma": 0.98},
        {},
        {"updates": 1},
        {"batch": 128, "updates": 4},
        {"tau": 0.02, "target_entropy": -3.0},
        {"std": 0.6, "rate": 3e-4},
    ),
}


def _tried(learner: str, n: int, settings: dict) -> Variant:
    return Variant(f"{learner}-{n}", learner, tuple(settings.items()))


EXPERIMENTS["tuning"] = Experiment(
    "Settings tried for each learner",
    ("pendulum3d-stop",),
    tuple(_tried(learner, n, tried) for learner, all_ in _TRIED.items() for n, tried in enumerate(all_, 1)),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run of an experiment."""

    task: str
    horizon: int | None
    variant: Variant
    seed: int

    def path(self, folder: Path) -> Path:
        task = self.task if self.horizon is None else f"{self.task}-n{self.horizon}"
        return folder / task / f"{self.variant.label}-s{self.seed}"

    def __str__(self):
        return f"{self.task} {self.variant.label} seed {self.seed}"


def entries(experiment: Experiment, names, learners, seeds) -> list[Entry]:
    """The runs of an experiment on the tasks `names` with `learners` (labels or learners; None: all), by seed first."""
    chosen = [v for v in experiment.variants if learners is None or {v.label, v.learner} & set(learners)]
    those = [name for name in experiment.tasks if names is None or name in names]
    return [Entry(t, experiment.horizon, v, seed) for seed, t, v in itertools.product(seeds, those, chosen)]


# Table 1 of the paper: return and hours, on a Core i7-8700K with a GTX 1080 Ti. Its reward weights are not published,
# and neither does it say which of the two goals the last two rows had.
PAPER_COLUMNS = ("pods-500", "pods-4000", "sac", "ppo", "gps")
PAPER = {
    "pendulum2d-stop": ((-17, -18, -20, -48, -37), (0.11, 0.15, 4.8, 1.1, 0.6)),
    "pendulum3d-stop": ((-39, -44, -45, -199, -193), (0.22, 0.23, 4.9, 1.1, 1.07)),
    "double3d-stop": ((-180, -185, -213, -470, -365), (0.74, 0.57, 10.9, 2.9, 2.2)),
    "pendulum2d-origin": ((-183, -184, -191, -395, -218), (0.11, 0.75, 4.8, 1.2, 0.6)),
    "pendulum3d-origin": ((-291, -331, -315, -997, -546), (0.20, 0.24, 4.9, 1.2, 0.8)),
    "double3d-origin": ((-732, -737, -836, -2310, -845), (1.01, 0.99, 9.7, 2.9, 2.9)),
    "cable2d": ((-13, -11, -14, -50, -13), (0.7, 0.5, 8.2, 2.5, 4.4)),
    "rope3d": ((-3023, -2928, -3030, -7730, -2975), (1.77, 1.34, 13.6, 3.4, 6.4)),
}
