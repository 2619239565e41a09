"""Policy, imitation, the PODS loop, and runs that are cut off and go on."""

import dataclasses
import functools
import json
import math

import pytest
import torch

from learner import LEARNERS, imitation, pods, seeds, settings
from learner.policy import FLOOR, SCALE_SEED, SCALE_STATES, Policy
from learner.rollouts import closed_loop
from learner.run import Run
from taichi_sim import InputError
from tasks import Task

N = 40
FIND = pods.DIRECTIONS  # "pods": second order, "pods1": first order
SMALL = pods.Config(epochs=6, k=8, steps=10, batch=64, memory=2)


def equal(these: dict, those: dict):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


def timeless(run: Run):
    return [{name: y for name, y in row.items() if not name.startswith("seconds")} for row in run.rows()]


# Policy


def test_weights_come_from_the_seed_alone(task):
    made = task("pendulum3d-stop", N)
    one = Policy(made, 7).state_dict()
    torch.manual_seed(99)
    assert equal(one, Policy(made, 7).state_dict())
    other = Policy(made, 8).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in ("mean", "whiten", "limit"))
    assert not any(torch.equal(one[name], other[name]) for name in one if name.startswith("layers"))


def test_the_network_is_that_of_the_paper_and_single_precision(task):
    policy = Policy(task("double3d-origin", N), 0)
    shapes = [tuple(layer.weight.shape) for layer in policy.layers]
    assert shapes == [(256, 14), (256, 256), (2, 256)]
    assert all(tensor.dtype == torch.float32 for tensor in policy.state_dict().values())


def test_actions_stay_within_the_limit(task):
    made = task("pendulum3d-stop", N, limit=0.3)
    generator = torch.Generator().manual_seed(0)
    far = 100 * torch.randn(2000, made.observation_size, generator=generator, dtype=torch.float64)
    actions = Policy(made, 0)(far)
    assert actions.shape == (2000, 2) and actions.dtype == torch.float32
    assert 0.2 < actions.abs().max() <= torch.tensor(0.3)


@pytest.mark.parametrize("name", ("pendulum2d-origin", "pendulum3d-stop", "double3d-origin"))
def test_observations_reach_the_network_white(task, name):
    """Over the rollouts that set the scale: mean 0 and variance 1, but for directions that hardly vary, with less."""
    made = task(name)
    policy = Policy(made, 0)
    still = torch.zeros(SCALE_STATES, made.N, made.system.actions, dtype=torch.float64)
    rows = made.simulator.rollout(made.start(SCALE_SEED, SCALE_STATES), still)
    seen = made.observe(rows.x, rows.v, rows.p).flatten(0, 1)
    white = (seen - policy.mean.double()) @ policy.whiten.double()
    assert white.mean(0).abs().max() < 1e-3
    covariance = torch.cov(white.T)
    variance = covariance.diagonal()
    clamped = variance < 0.99
    assert (variance[~clamped] - 1).abs().max() < 1e-3 and (~clamped).sum() >= len(variance) // 2
    assert (covariance - torch.diag(variance)).abs().max() < 1e-3
    spread = torch.linalg.eigvalsh(torch.cov(seen.T))
    assert clamped.sum() == (spread < 0.99 * FLOOR * spread.max()).sum()


# Imitation


def samples_of(made, target, n=4096):
    generator = torch.Generator().manual_seed(1)
    policy = Policy(made, 0)
    white = torch.randn(n, made.observation_size, generator=generator)
    seen = policy.mean + white @ torch.linalg.inv(policy.whiten.double()).float()
    return imitation.Samples(seen, target(white))


def test_imitation_fits_a_known_feedback_law(task):
    """A linear law through tanh: from above 0.15 to below 0.005 (m/s)² in 400 steps, on samples it has not seen too."""
    made = task("pendulum3d-origin", N)
    law = torch.linspace(-0.25, 0.3, 2 * made.observation_size).view(-1, 2)
    samples = samples_of(made, lambda white: torch.tanh(white @ law), 8192)
    parts = zip(samples.observations.split(6144), samples.actions.split(6144), strict=True)
    seen, unseen = (imitation.Samples(*part) for part in parts)
    policy = Policy(made, 3)

    def loss(of):
        with torch.no_grad():
            return 0.5 * (policy(of.observations) - of.actions).square().sum(-1).mean().item()

    assert loss(unseen) > 0.15
    optimiser = torch.optim.Adam(policy.parameters())
    rates = [1e-3 * 0.5 * (1 + math.cos(math.pi * step / 400)) for step in range(400)]
    imitation.imitate(policy, optimiser, samples=seen, steps=400, batch=512, rates=rates, seed=0, epoch=0)
    assert loss(seen) < 0.005 and loss(unseen) < 0.005


def test_which_samples_are_fitted_depends_on_seed_and_epoch_alone(task):
    made = task("pendulum2d-origin", N)
    samples = samples_of(made, lambda white: torch.tanh(white[:, :1]))

    def fitted(seed, epoch, batch=32):
        torch.manual_seed(seed * 17 + epoch)
        torch.rand(5)
        policy = Policy(made, 0)
        optimiser = torch.optim.Adam(policy.parameters())
        imitation.imitate(policy, optimiser, samples, 5, batch, [1e-3] * 5, seed, epoch)
        return policy.state_dict()

    torch.manual_seed(1)
    once = fitted(2, 3)
    torch.manual_seed(2)
    assert equal(once, fitted(2, 3))
    assert not equal(once, fitted(2, 4)) and not equal(once, fitted(3, 3))
    assert equal(fitted(2, 3, batch=0), fitted(5, 1, batch=0))  # all samples: nothing is drawn


def test_failed_rollouts_are_not_imitated(task):
    made = task("pendulum2d-stop", N)
    start = made.start(1, 4)
    start.v[1] = 1e200
    rows = made.simulator.rollout(start, torch.zeros(4, N, 1, dtype=torch.float64))
    samples = imitation.Samples.of(made, rows)
    assert len(samples) == 3 * N
    healthy = rows[torch.tensor([0, 2, 3])]
    row = made.observe(healthy.x[1, 5], healthy.v[1, 5], healthy.p[1, 5]).float()
    assert torch.equal(samples.observations[N + 5], row) and torch.equal(samples.actions[N + 5], rows.a[2, 5].float())


# The loop


def test_a_closed_loop_is_the_open_loop_of_its_actions_bit_for_bit(task):
    made = task("pendulum3d-origin", N)
    played = closed_loop(made, Policy(made, 0), made.start(4, 16))
    again = made.simulator.rollout(played.start, played.a)
    assert played.a.abs().max() > 0.01
    for name in ("x", "v", "p", "a", "status", "iterations"):
        assert torch.equal(getattr(played, name), getattr(again, name))


@pytest.fixture(scope="session")
def runs(task, tmp_path_factory):
    """Three epochs of either learner; learner -> (policy, run, rows told to on_epoch)."""
    made, config = task("pendulum2d-stop", N), pods.Config(epochs=3, k=32, steps=40, batch=512, memory=4)

    @functools.cache
    def run(learner):
        run, told = Run.create(tmp_path_factory.mktemp(learner) / "run", {}), []
        return LEARNERS[learner][2](made, config, run, on_epoch=told.append), run, told

    return run


def test_pods_improves_the_return_on_fresh_states_and_second_order_does_so_faster(task, runs):
    """In three epochs of 32 rollouts the mean cost on 200 new states falls below half the untrained policy's, and
    with second-order steps 5 % lower than with first-order ones; the first improvement alone gains 10 % more."""
    made = task("pendulum2d-stop", N)
    fresh = made.start((77,), 200)

    def cost(policy):
        return -made.returns(closed_loop(made, policy, fresh)).mean().item()

    untrained = cost(Policy(made, 0))
    first, second = cost(runs("pods1")[0]), cost(runs("pods")[0])
    assert first < 0.5 * untrained and second < 0.5 * untrained and second < 0.95 * first
    gains = [row["return_improved"] - row["return"] for row in (runs(name)[1].rows()[0] for name in ("pods1", "pods"))]
    assert gains[1] > 1.1 * gains[0] > 0


@pytest.mark.parametrize("learner", FIND)
def test_the_log_says_that_no_epoch_makes_a_rollout_worse(runs, learner):
    _, run, told = runs(learner)
    rows = run.rows()
    assert rows == told and [row["epoch"] for row in rows] == list(range(1, 4))
    for row in rows:
        assert row["smallest_improvement"] >= 0 and row["failed"] == 0
        assert row["return_improved"] > row["return"] and row["return_std"] > 0 and row["loss"] > 0
        assert 0 < row["mean_alpha"] <= row["share_improved"] <= 1
        assert row["samples"] == row["epoch"] * 32 * N
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    laps = [name for name in rows[0] if name.startswith("seconds_") and name != "seconds_validation"]
    assert seconds[-1] == pytest.approx(sum(row[name] for row in rows for name in laps), rel=1e-9)


def test_all_learners_begin_with_the_same_policy_and_starts(task, runs):
    first, second = (runs(learner)[1].rows()[0] for learner in ("pods1", "pods"))
    assert first["return"] == second["return"] and first["return_std"] == second["return_std"]
    assert first["return_improved"] != second["return_improved"]
    made = task("pendulum2d-stop", N)
    played = closed_loop(made, Policy(made, 0), made.start(seeds.starts(0, 0), 32))
    assert first["return"] == made.returns(made.simulator.rollout(played.start, played.a)).mean().item()


@dataclasses.dataclass(frozen=True, eq=False)
class Poisoned(Task):
    """The first `bad` rollouts start with a velocity whose square overflows: their first step fails."""

    bad: int = 0

    def start(self, seed, B):
        state = super().start(seed, B)
        state.v[: self.bad] = 1e200
        return state


def poisoned(made, bad):
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    other = Poisoned(**fields, bad=bad)
    other.__dict__.update(simulator=made.simulator, goal=made.goal)
    return other


@pytest.mark.parametrize("learner", FIND)
def test_training_goes_on_without_the_rollouts_that_fail(task, tmp_path, learner):
    made = poisoned(task("pendulum2d-stop", N), 1)
    config = dataclasses.replace(SMALL, epochs=2, failures=0.2)
    run = Run.create(tmp_path / "run", {})
    policy = LEARNERS[learner][2](made, config, run)
    assert [row["failed"] for row in run.rows()] == [1, 1]
    assert all(row["return_improved"] > row["return"] > -math.inf for row in run.rows())
    assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())


def test_too_many_failed_rollouts_stop_a_run(task, tmp_path):
    made, run = poisoned(task("pendulum2d-stop", N), 2), Run.create(tmp_path / "run", {})
    with pytest.raises(InputError, match="failures: expected at most 20% of rollouts, got 2 of 8"):
        pods.train(made, dataclasses.replace(SMALL, failures=0.2), run, FIND["pods"])
    assert run.rows() == [] and run.checkpoints() == []


# Runs


class Cut(Exception):
    pass


@pytest.fixture(scope="session")
def whole(task, tmp_path_factory):
    """Six epochs without a break: tensors of the last checkpoint and rows of the log."""
    run = Run.create(tmp_path_factory.mktemp("whole") / "run", {})
    pods.train(task("pendulum2d-stop", N), SMALL, run, FIND["pods"])
    tensors, state = run.load()
    assert state["epoch"] == 6 and sum(name.startswith("adam/") for name in tensors) == 18
    assert sum(name.startswith("memory/") for name in tensors) == 4
    return tensors, timeless(run)


def cut_off(made, path, after=3) -> Run:
    """A run that dies after some epochs."""

    def stop(row):
        if row["epoch"] == after:
            raise Cut

    run = Run.create(path, {})
    with pytest.raises(Cut):
        pods.train(made, SMALL, run, FIND["pods"], on_epoch=stop)
    return Run.open(path)


def tear_log(run):
    path = run.path / "log.csv"
    path.write_text(path.read_text() + "4,128")


def log_of_a_lost_epoch(run):
    """The process died between the log's row and the checkpoint."""
    path = run.path / "log.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1].replace("3,", "4,", 1) + "\n")


def truncate_newest(run):
    newest = run.checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])


def empty_newest(run):
    run.checkpoints()[-1].write_bytes(b"")


def leave_temporary(run):
    (run.path / "checkpoints" / ".000004.safetensors.tmp").write_bytes(b"half")


DAMAGE = (tear_log, log_of_a_lost_epoch, truncate_newest, empty_newest, leave_temporary)


@pytest.mark.parametrize("damage", (None, *DAMAGE), ids=lambda f: f.__name__ if f else "none")
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(task, whole, tmp_path, damage):
    """Weights, Adam's moments, memory and log equal bit for bit, whatever the crash left behind."""
    made = task("pendulum2d-stop", N)
    run = cut_off(made, tmp_path / "run")
    assert len(run.rows()) == 3 and len(run.checkpoints()) == 2
    if damage:
        damage(run)
    run = Run.open(run.path)
    told = []
    policy = pods.train(made, SMALL, run, FIND["pods"], on_epoch=told.append)
    assert told[0]["epoch"] == (3 if damage in (truncate_newest, empty_newest) else 4)
    tensors, rows = whole
    assert timeless(run) == rows
    assert equal(run.load()[0], tensors)
    kept = {name.removeprefix("policy/"): t for name, t in tensors.items() if name.startswith("policy/")}
    assert equal(policy.state_dict(), kept)


def test_a_finished_run_only_gives_back_its_policy(task, tmp_path):
    made = task("pendulum2d-stop", N)
    run, config = Run.create(tmp_path / "run", {}), dataclasses.replace(SMALL, epochs=2)
    policy = pods.train(made, config, run, FIND["pods"])
    rows = run.rows()
    again = pods.train(made, config, Run.open(run.path), FIND["pods"], on_epoch=lambda row: pytest.fail("trained on"))
    assert equal(again.state_dict(), policy.state_dict()) and run.rows() == rows


def test_two_checkpoints_are_kept_and_one_must_be_readable(tmp_path):
    run = Run.create(tmp_path / "run", {})
    for epoch in range(1, 5):
        run.save(epoch, {"tensor": torch.full((2,), float(epoch))}, {"note": epoch})
    assert [path.name for path in run.checkpoints()] == ["000003.safetensors", "000004.safetensors"]
    tensors, state = run.load()
    assert torch.equal(tensors["tensor"], torch.tensor([4.0, 4.0])) and (state["epoch"], state["note"]) == (4, 4)
    for path in run.checkpoints():
        path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="run: expected a readable checkpoint in .*, got .*000003.*: expected"):
        run.load()


def test_a_run_is_made_only_where_nothing_is(tmp_path):
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", {"task": "t"})
    assert json.loads((tmp_path / "empty" / "config.json").read_text())["task"] == "t"
    (tmp_path / "file").write_text("mine")
    for taken in ("empty", "file"):
        with pytest.raises(InputError, match="run: expected a new folder"):
            Run.create(tmp_path / taken, {})
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InputError, match="config.json: expected a place for a file, got 'Not a directory'"):
        Run.create(tmp_path / "file" / "below", {})


def test_a_run_of_another_version_or_none_is_not_opened(tmp_path):
    run = Run.create(tmp_path / "run", {})
    assert Run.open(run.path).config["version"] == 1
    for text, message in (
        ('{"version": 2}', "config.json: expected layout version 1, got 2, written by an unknown version"),
        (
            '{"version": 0, "environment": {"pods": "0.0.1", "torch": "2.5"}}',
            "config.json: expected layout version 1, got 0, written by pods 0.0.1, torch 2.5",
        ),
        ("{}", "config.json: expected layout version 1, got None"),
        ("[1]", "config.json: expected a JSON object, got list"),
        ('{"version": 1', "config.json: expected JSON, got something else"),
        ("[" * 100_000, "config.json: expected JSON, got something else"),
        (" " * 2_000_000, "config.json: expected at most 1,048,576 bytes"),
    ):
        (run.path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            Run.open(run.path)
    with pytest.raises(InputError, match="run: expected a run folder with a config.json"):
        Run.open(tmp_path / "nowhere")


# Settings


@pytest.mark.parametrize("field, value, message", [
    ("epochs", 0, "epochs: expected int >= 1, got 0"),
    ("epochs", 2.0, "epochs: expected int >= 1, got 2.0"),
    ("k", "many", "k: expected int >= 1, got 'many'"),
    ("k", True, "k: expected int >= 1, got True"),
    ("rate", 1.5, "rate: expected float >= 1e-09 and <= 1.0, got 1.5"),
    ("rate", float("nan"), "rate: expected float .* got nan"),
    ("failures", -0.1, "failures: expected float >= 0.0 and <= 1.0, got -0.1"),
    ("seed", 2**31, "seed: expected int >= 0 and <= 2147483647"),
    ("epoch", 3, "epoch: expected a setting of this learner .*, got 'epoch'"),
])  # fmt: skip
def test_a_wrong_setting_is_named_with_what_was_expected(field, value, message):
    with pytest.raises(InputError, match=message):
        settings.from_dict(pods.Config, {field: value})


def test_settings_survive_json():
    config = settings.from_dict(pods.Config, {"rate": 1, "epochs": 7, "seed": 3})
    assert config.rate == 1.0 and type(config.rate) is float
    assert settings.from_dict(pods.Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    for values in pods.PRESETS.values():
        settings.from_dict(pods.Config, values)
