"""Wrong arguments and systems are refused by name, before any kernel runs."""

import numpy as np
import pytest
import torch

from taichi_sim import Builder, InputError, Simulator, State, System
from taichi_sim.launch import Launch

# Wrong arguments


def wrong_actions():
    good = torch.zeros(2, 3, 2, dtype=torch.float64)
    poisoned, overflown = good.clone(), good.clone()
    poisoned[1, 2, 0], overflown[0, 1, 1] = torch.nan, -torch.inf
    return {
        "nan": (poisoned, "actions: expected finite numbers, got nan at (1, 2, 0)"),
        "inf": (overflown, "actions: expected finite numbers, got -inf at (0, 1, 1)"),
        "width": (torch.zeros(2, 3, 3, dtype=torch.float64), "actions: expected (2, N, 2), got (2, 3, 3)"),
        "batch": (torch.zeros(1, 3, 2, dtype=torch.float64), "actions: expected (2, N, 2), got (1, 3, 2)"),
        "ndim": (torch.zeros(2, 2, dtype=torch.float64), "actions: expected (2, N, 2), got (2, 2)"),
        "no steps": (torch.zeros(2, 0, 2, dtype=torch.float64), "actions: expected at least one step, got (2, 0, 2)"),
        "dtype": (good.float(), "actions: expected torch.float64, got torch.float32"),
        "device": (good.to("meta"), "actions: expected a tensor on cpu, got meta"),
        "type": (good.numpy(), "actions: expected a torch.Tensor, got ndarray"),
    }


@pytest.fixture
def launches(monkeypatch):
    """watch() lists the kernels that would be launched from then on, instead of launching them."""

    def watch():
        launched = []
        monkeypatch.setattr(Launch, "__call__", lambda self, **_: launched.append(self.kernel.name))
        return launched

    return watch


@pytest.mark.parametrize("fault", wrong_actions())
def test_wrong_actions_are_refused_before_any_kernel_runs(simulator, launches, fault):
    sim = simulator("oscillator")
    launched = launches()
    actions, message = wrong_actions()[fault]
    with pytest.raises(InputError) as error:
        sim.rollout(sim.start(2), actions)
    assert str(error.value) == message and launched == []
    sim.rollout(sim.start(2), torch.zeros(2, 3, 2, dtype=torch.float64))
    assert launched == ["run"]  # the watch works


def test_more_rollouts_than_kernels_can_count_are_refused_before_anything_is_allocated(simulator, launches):
    sim = simulator("oscillator")
    B, N = 2**20, 3000
    actions = torch.zeros(1, N, 2, dtype=torch.float64)[:, :, : sim.system.actions].expand(B, -1, -1)
    launched, start = launches(), sim.start(B)
    with pytest.raises(InputError, match=r"rollouts: expected at most \d+ side by side, \d+ numbers each, got 1048576"):
        sim._begin(start, actions)
    with pytest.raises(InputError, match=r"rollouts: expected at most \d+ side by side, \d+ numbers each, got \d+"):
        sim._kernels.part(64, 2**30)  # linearised at a time, of rollouts of so many steps
    assert launched == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second kind of device")
def test_actions_on_another_device_are_refused(simulator):
    sim = simulator("oscillator")
    with pytest.raises(InputError, match="expected a tensor on cpu, got cuda"):
        sim.rollout(sim.start(2), torch.zeros(2, 3, 2, dtype=torch.float64, device="cuda"))


@pytest.mark.parametrize("field", ("x", "v", "p", "x_prev", "v_prev"))
def test_wrong_starts_are_refused_before_any_kernel_runs(simulator, launches, field):
    sim = simulator("pendulum")
    launched = launches()
    good = {name: getattr(sim.start(2), name) for name in ("x", "v", "p", "x_prev", "v_prev", "first")}
    a = torch.zeros(2, 3, 1, dtype=torch.float64)
    poisoned = good[field].clone()
    poisoned[1, 0, 1] = torch.nan
    for wrong, message in (
        (good[field].repeat(1, 2, 1), f"start.{field}: expected (2, 1, 2), got (2, 2, 2)"),
        (good[field][:, 0], f"start.{field}: expected (2, 1, 2), got (2, 2)"),
        (good[field].float(), f"start.{field}: expected torch.float64, got torch.float32"),
        (good[field].to("meta"), f"start.{field}: expected a tensor on cpu, got meta"),
        (poisoned, f"start.{field}: expected finite numbers, got nan at (1, 0, 1)"),
    ):
        with pytest.raises(InputError) as error:
            sim.rollout(State(**good | {field: wrong}), a)
        assert str(error.value) == message
    assert launched == []


def test_wrong_first_and_wrong_state_are_refused(simulator):
    sim, a = simulator("pendulum"), torch.zeros(2, 3, 1, dtype=torch.float64)
    s = sim.start(2)
    with pytest.raises(InputError, match=r"start.first: expected \(2,\) bool, got \(2,\) torch.int32"):
        sim.rollout(State(s.x, s.v, s.p, s.x_prev, s.v_prev, s.first.int()), a)
    with pytest.raises(InputError, match="start: expected a State, got tuple"):
        sim.rollout((s.x, s.v, s.p), a)
    with pytest.raises(InputError, match=r"v: expected \(2, 1, 2\), got \(3, 1, 2\)"):
        sim.start(2, v=torch.zeros(3, 1, 2))


def test_wrong_sweep_arguments_are_refused_before_any_kernel_runs(simulator, launches):
    sim = simulator("pendulum")
    trajectory = sim.rollout(sim.start(2), torch.zeros(2, 3, 1, dtype=torch.float64))
    launched = launches()
    g, q, r = (torch.ones(2, 3, n, dtype=torch.float64) for n in (1, 5, 1))
    for call, message in (
        (lambda: sim.vjp(trajectory, g), r"gx: expected \(2, 4, 1, 2\), got \(2, 3, 1\)"),
        (lambda: sim.jvp(trajectory, q), r"da: expected \(2, 3, 1\), got \(2, 3, 5\)"),
        (lambda: sim.gauss_newton(trajectory, g[:, :2], q, r), r"g: expected \(2, 3, 1\), got \(2, 2, 1\)"),
        (lambda: sim.gauss_newton(trajectory, g, q[..., :4], r), r"q: expected \(2, 3, 5\), got \(2, 3, 4\)"),
        (lambda: sim.gauss_newton(trajectory, g, q, r / 0.0), r"r: expected finite numbers, got inf at \(0, 0, 0\)"),
        (lambda: sim.gauss_newton(trajectory, g, q, r, g[:, 0]), r"damping: expected \(2\), got \(2, 1\)"),
        (lambda: sim.gauss_newton(trajectory, g, q, r, free=g[0] > 0), r"free: expected \(2, 3, 1\), got \(3, 1\)"),
        (
            lambda: sim.gauss_newton_boxed(trajectory, 0.0, g[:, 0, 0], g, q, r),
            "limit: expected a bound > 0 m/s, got 0.0",
        ),
        (lambda: sim.gauss_newton_boxed(trajectory, 1.0, g, g, q, r), r"goal: expected \(2\), got \(2, 3, 1\)"),
        (lambda: sim.gauss_newton_cg(trajectory, g[:, :2], q, r), r"g: expected \(2, 3, 1\), got \(2, 2, 1\)"),
        (lambda: sim.gauss_newton_cg(trajectory, g, -q, r), "q: expected second derivatives of the cost >= 0, got -1"),
        (lambda: sim.gauss_newton_cg(trajectory, g, q, r, tolerance=2), "tolerance: expected a number between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert launched == []
    for call in (sim.gauss_newton_riccati, sim.gauss_newton_cg):
        call(trajectory, g, q, r)
    sim.gauss_newton_boxed(trajectory, 1.0, g[:, 0, 0], g, q, r)
    assert launched == ["run", "solve", "solve", "run", "solve"]  # the watch works


@pytest.mark.parametrize("h", (0.0, -0.01, float("nan"), float("inf"), "0.01"))
def test_time_step_must_be_positive(simulator, h):
    with pytest.raises(InputError, match="h: expected a time step > 0 s, got"):
        Simulator(simulator("oscillator").system, h)


def test_simulator_wants_a_system(simulator):
    with pytest.raises(InputError, match="system: expected a System, got str"):
        Simulator("pendulum", 0.01)


# Wrong systems


def parts(**changes):
    """The arguments of a good System of two points, two handles, a rough and a smooth plane, with changes."""
    good = {
        "name": "pair",
        "rest": [[0.0, -1.0], [0.0, -2.0]],
        "mass": [0.1, 0.2],
        "home": [[0.0, 0.0], [1.0, 0.0]],
        "axes": np.eye(4)[:, :1],
        "ends": [(2, 0), (0, 1), (1, 3)],
        "stiffness": [10.0, 20.0, 30.0],
        "length": [1.0, 1.0, 2.0],
        "unilateral": [False, True, False],
        "blend": [0.0, 1e-3, 0.0],
        "damping": [0.0, 0.0, 0.0],
        "gravity": [0.0, -9.81],
        "triangles": [(0, 1, 2)],
        "normal": [[0.0, 1.0], [0.6, 0.8]],
        "offset": [-3.0, -4.0],
        "contact_stiffness": [400.0, 100.0],
        "contact_blend": [1e-3, 1e-2],
        "friction": [0.4, 0.0],
        "tangential_stiffness": [100.0, 0.0],
    }
    return good | changes


def test_the_good_system_is_accepted_and_frozen():
    system = System(**parts())
    assert (system.points, system.handles, system.springs, system.actions, system.state_size) == (2, 2, 3, 1, 9)
    assert system.planes == 2
    with pytest.raises(ValueError):
        system.mass[0] = 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"mass": [0.1, 0.0]}, "pair.mass: expected mass > 0 kg, got 0.0 at index 1"),
        ({"mass": [-1.0, 1.0]}, "pair.mass: expected mass > 0 kg, got -1.0 at index 0"),
        ({"mass": [1.0]}, "pair.mass: expected shape (2,), got (1,)"),
        ({"mass": [1.0, float("inf")]}, "pair.mass: expected finite numbers, got [1.0, inf]"),
        ({"ends": [(2, 0), (1, 1), (1, 3)]}, "pair.ends: expected two different nodes, got [1 1] at index 1"),
        ({"ends": [(2, 0), (0, 4), (1, 3)]}, "pair.ends: expected nodes in 0..3, got [0 4] at index 1"),
        ({"ends": [(2, 0), (0, 1), (-1, 3)]}, "pair.ends: expected nodes in 0..3, got [-1  3] at index 2"),
        (
            {"ends": [(2, 3), (0, 1), (1, 3)]},
            "pair.ends: expected at least one mass point, not two handles, got [2 3] at index 0",
        ),
        ({"stiffness": [10.0, float("nan"), 1.0]}, "pair.stiffness: expected finite numbers, got [10.0, nan, 1.0]"),
        ({"stiffness": [10.0, -1.0, 1.0]}, "pair.stiffness: expected stiffness > 0 N/m, got -1.0 at index 1"),
        ({"stiffness": [10.0, 1.0]}, "pair.stiffness: expected shape (3,), got (2,)"),
        ({"length": [1.0, -1.0, 1.0]}, "pair.length: expected rest length >= 0 m, got -1.0 at index 1"),
        ({"damping": [0.0, 0.0, -2.0]}, "pair.damping: expected damping >= 0 N·s/m, got -2.0 at index 2"),
        ({"blend": [0.0, 0.0, 0.0]}, "pair.blend: expected a blend width > 0 m for each cable, got 0.0 at index 1"),
        ({"axes": np.eye(3)}, "pair.axes: expected shape (4, 3), got (3, 3)"),
        ({"axes": np.ones(4)}, "pair.axes: expected shape "),
        ({"gravity": [0.0, 0.0, -9.81]}, "pair.gravity: expected shape (2,), got (3,)"),
        ({"home": [[0.0, 0.0, 0.0]]}, "pair.home: expected shape (1, 2), got (1, 3)"),
        ({"rest": np.zeros((0, 2))}, "pair.rest: expected at least one point, got 0"),
        ({"rest": np.zeros((2, 4))}, "pair.rest: expected points in 2 or 3 dimensions, got 4"),
        ({"triangles": [(0, 1, 9)]}, "pair.triangles: expected nodes in 0..3, got [0 1 9] at index 0"),
        ({"normal": [[0.0, 1.0], [1.0, 1.0]]}, "pair.normal: expected a normal of length 1, got [1. 1.] at index 1"),
        ({"normal": [[0.0, 0.0], [0.6, 0.8]]}, "pair.normal: expected a normal of length 1, got [0. 0.] at index 0"),
        ({"normal": [[0.0, 1.0]]}, "pair.normal: expected shape (2, 2), got (1, 2)"),
        ({"normal": [[0.0, 0.0, 1.0]] * 2}, "pair.normal: expected shape (2, 2), got (2, 3)"),
        ({"normal": [0.0, 1.0]}, "pair.normal: expected shape "),
        ({"offset": [-3.0, float("nan")]}, "pair.offset: expected finite numbers, got [-3.0, nan]"),
        ({"contact_stiffness": [400.0]}, "pair.contact_stiffness: expected shape (2,), got (1,)"),
        (
            {"contact_stiffness": [400.0, -1.0]},
            "pair.contact_stiffness: expected stiffness > 0 N/m, got -1.0 at index 1",
        ),
        ({"contact_blend": [0.0, 1e-2]}, "pair.contact_blend: expected a blend width > 0 m, got 0.0 at index 0"),
        ({"contact_blend": [1e-3] * 3}, "pair.contact_blend: expected shape (2,), got (3,)"),
        ({"friction": [0.4, -0.1]}, "pair.friction: expected a coefficient of friction >= 0, got -0.1 at index 1"),
        ({"friction": []}, "pair.friction: expected shape (2,), got (0,)"),
        ({"tangential_stiffness": [0.0, 0.0]}, "pair.tangential_stiffness: expected stiffness > 0 N/m where there is"),
        ({"tangential_stiffness": [100.0, -1.0]}, "pair.tangential_stiffness: expected stiffness > 0 N/m where there"),
        ({"tangential_stiffness": [[100.0, 1.0]]}, "pair.tangential_stiffness: expected shape "),
    ),
)
def test_broken_system_is_refused_by_field(changes, message):
    with pytest.raises(InputError) as error:
        System(**parts(**changes))
    assert str(error.value).startswith(message)


def test_builder_refuses_bad_positions_axes_and_dimensions():
    with pytest.raises(InputError, match="b.dim: expected 2 or 3, got 4"):
        Builder("b", dim=4)
    with pytest.raises(InputError, match=r"b.point position: expected 2 numbers, got \(0, 0, 0\)"):
        Builder("b", dim=2).point((0, 0, 0), mass=1.0)
    with pytest.raises(InputError, match="b.handle axes: expected letters of 'xy', got 'z'"):
        Builder("b", dim=2).handle((0, 0), axes="z")
