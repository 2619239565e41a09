"""A step is solved to round-off or says why not; a rollout that fails does so alone."""

import numpy as np
import pytest
import systems
import torch

from taichi_sim import Builder, InputError, Simulator, State, Status
from taichi_sim.forces import ETA
from taichi_sim.newton import ROUND_OFF
from tasks import cloth

EPS = np.finfo(float).eps


# Failed rollouts


@pytest.mark.parametrize("name", ("pendulum", "double"))
@pytest.mark.parametrize("where", ("action", "velocity"))
def test_a_poisoned_rollout_fails_alone(simulator, name, where):
    """Of 256 rollouts the one with a huge input gets a status, repeats its last good row, has gradient zero, and
    the others keep their bits."""
    sim, B, N, sick, when = simulator(name), 256, 12, 77, 5
    start, a = systems.start(sim, B), systems.actions(sim, B, N)
    v, b = start.v.clone(), a.clone()
    if where == "action":
        b[sick, when] = 1e200
    else:
        v[sick], when = 1e200, 0
    others = torch.arange(B) != sick

    def run(v, a):
        v, a = v.clone().requires_grad_(), a.clone().requires_grad_()
        trajectory = sim.rollout(State.start(start.x, v, start.p), a)
        (trajectory.x**2).sum().backward()
        return trajectory, v.grad, a.grad

    healthy, poisoned = run(start.v, a), run(v, b)
    trajectory = poisoned[0]
    assert healthy[0].ok.all() and trajectory.ok.tolist() == others.tolist()
    for rows in ("x", "v", "p", "status", "iterations"):
        assert torch.equal(getattr(trajectory, rows)[others], getattr(healthy[0], rows)[others])
        assert torch.isfinite(getattr(trajectory, rows)).all()
    status = trajectory.status[sick]
    assert (status[:when] == Status.OK).all() and status[when] == Status.NON_FINITE
    assert (status[when + 1 :] == Status.NOT_RUN).all()
    for rows in ("x", "v", "p"):
        kept = getattr(trajectory, rows)[sick]
        assert (kept[when + 1 :] == kept[when]).all()
    for mine, theirs in zip(poisoned[1:], healthy[1:], strict=True):
        assert torch.equal(mine[others], theirs[others]) and (mine[sick] == 0).all()
    S = sim.jacobian(trajectory)
    dx, dv, dp = sim.jvp(trajectory, torch.ones_like(a))
    assert (S[sick] == 0).all() and all((rows[sick] == 0).all() for rows in (dx, dv, dp))
    assert all(torch.isfinite(rows).all() for rows in (S, dx, dv, dp))


def test_closed_loop_gives_a_status_to_an_action_that_is_not_finite(simulator):
    sim = simulator("pendulum")
    trajectory = sim.begin(systems.start(sim, 3), 4)
    for t in range(4):
        trajectory.a[:, t] = 0.1
        if t == 2:
            trajectory.a[1, t] = torch.nan
        sim.advance(trajectory, t)
    assert trajectory.ok.tolist() == [True, False, True]
    assert trajectory.status[1].tolist() == [Status.OK, Status.OK, Status.NON_FINITE, Status.NOT_RUN]
    assert all(torch.isfinite(rows).all() for rows in (trajectory.x, trajectory.v, trajectory.p))


def test_a_step_outside_the_trajectory_is_refused(simulator):
    sim = simulator("pendulum")
    trajectory = sim.begin(systems.start(sim, 2), 4)
    for t in (-1, 4):
        with pytest.raises(InputError, match=f"t: expected a step from 0 to 3, got {t}"):
            sim.advance(trajectory, t)


def test_a_trajectory_of_another_system_is_refused(simulator):
    sim, other = simulator("pendulum"), simulator("double")
    rows = other.rollout(systems.start(other, 2), systems.actions(other, 2, 3))
    for sweep in (sim.vjp, sim.jacobian):
        with pytest.raises(InputError, match=r"trajectory.a: expected \(2, 3, \d\), got \(2, 3, \d\)"):
            sweep(rows)


def test_a_handle_that_holds_nothing_cannot_hide_an_action_that_is_not_finite(simulator):
    b = Builder("loose handle", dim=2)
    b.point((0.0, 0.0), mass=0.1)
    b.handle((1.0, 0.0), axes="x")
    sim = Simulator(b.build(), 0.02)
    trajectory = sim.begin(sim.start(2), 1)
    trajectory.a[0] = torch.inf
    sim.advance(trajectory, 0)
    assert trajectory.status[:, 0].tolist() == [Status.NON_FINITE, Status.OK]
    assert torch.isfinite(trajectory.p).all()


def test_every_status_has_a_sentence():
    assert len({status.sentence for status in Status}) == len(Status) == 4


# OK means solved


def residual(simulator, trajectory):
    """G of every step from the rows alone, (B, N, P·d), and the round-off of its terms.

    G = M (c₀ v₁ + c₁ v₀ + c₂ v₋₁)/h − M g + Σ pull − Σ contact. The simulator's tolerance is ROUND_OFF · eps · scale,
    where scale sums |M c₀² u/h²|, |M g|, |pull| and stiffness · |x| per point, and the same for contact. Computing G
    from rounded rows adds one rounding of x in the springs, of v in the inertia, and of the handles' velocity in the
    dampers.
    """
    s, h = simulator.system, simulator.h
    x, v, p, a = (getattr(trajectory, n).numpy() for n in ("x", "v", "p", "a"))
    first = trajectory.start.first.numpy()[:, None, None]
    x_prev, v_prev = trajectory.start.x_prev.numpy()[:, None], trajectory.start.v_prev.numpy()[:, None]
    B, N = a.shape[:2]
    c = np.broadcast_to(np.array([1.5, -2.0, 0.5]), (B, N, 3)).copy()
    c[first[:, 0, 0], 0] = (1.0, -1.0, 0.0)
    c0, c1, c2 = (c[..., n, None, None] for n in range(3))
    older_x, older_v = np.concatenate([x_prev, x[:, :-2]], 1), np.concatenate([v_prev, v[:, :-2]], 1)
    mass = s.mass[:, None]
    terms = [mass * k * rows / h for k, rows in ((c0, v[:, 1:]), (c1, v[:, :-1]), (c2, older_v))]
    G = sum(terms) - mass * s.gravity
    v_free = -(c1 * v[:, :-1] + c2 * older_v) / c0
    push = np.abs(mass * c0 / h * (v[:, 1:] - v_free)).sum(-1)
    scale = push + np.abs(mass * s.gravity).sum(-1)
    rounding = sum(np.abs(term) for term in terms)
    nodes = np.concatenate([x[:, 1:], p[:, 1:]], 2)
    speeds = np.concatenate([v[:, 1:], (a @ s.axes.T).reshape(B, N, s.handles, s.dim)], 2)
    for e, (i, j) in enumerate(s.ends):
        span, rate = nodes[:, :, i] - nodes[:, :, j], speeds[:, :, i] - speeds[:, :, j]
        length = np.sqrt((span**2).sum(-1) + ETA**2)[..., None]
        n, stretch, k, eps = span / length, length - s.length[e], s.stiffness[e], s.blend[e]
        tension, slope, share = k * stretch, np.full_like(stretch, k), np.ones_like(stretch)
        if s.unilateral[e]:
            z = np.clip((stretch + eps) / (2 * eps), 0.0, 1.0)
            tension = np.where(z < 1, k * eps * z**2, tension)
            slope, share = k * z, z**2 * (3 - 2 * z)
        speed = (rate * n).sum(-1, keepdims=True)
        pull = (tension + s.damping[e] * share * speed) * n
        stiff = slope + np.abs(tension) / length
        grain = (
            np.linalg.norm(pull, axis=-1, keepdims=True) + stiff * np.abs(nodes[:, :, [i, j]]).sum((-1, -2))[..., None]
        )[..., 0]
        drag = s.damping[e] * (1.5 / h) * np.abs(nodes[:, :, [i, j]]).sum((-1, -2))
        drag = drag + s.damping[e] * np.abs(speeds[:, :, [i, j]]).sum((-1, -2))
        for node, sign in ((i, 1.0), (j, -1.0)):
            if node < s.points:
                G[:, :, node] += sign * pull
                scale[:, :, node] += grain
                rounding[:, :, node] += drag[..., None]
    for n, offset, k, eps, mu, tangential in zip(
        s.normal, s.offset, s.contact_stiffness, s.contact_blend, s.friction, s.tangential_stiffness, strict=True
    ):
        depth = offset - x[:, 1:] @ n
        z = np.clip((depth + eps) / (2 * eps), 0.0, 1.0)
        load, slope = np.where(z < 1, k * eps * z**2, k * depth), k * z
        slip = v[:, 1:] - (v[:, 1:] @ n)[..., None] * n
        speed, bound = np.linalg.norm(slip, axis=-1), np.maximum(mu * load, 1e-300)
        stiff = np.where(
            load * mu > 0,
            bound * np.tanh(np.minimum(tangential * h * speed / bound, 50.0)) / np.maximum(speed, 1e-300),
            0.0,
        )
        G += stiff[..., None] * slip - load[..., None] * n
        grain = load + slope * (abs(offset) + np.abs(x[:, 1:] * n).sum(-1))
        scale += (1 + mu) * grain + stiff * np.linalg.norm(v[:, 1:], axis=-1)
    kinematics = h * v[:, 1:] - c0 * x[:, 1:] - c1 * x[:, :-1] - c2 * older_x
    reach = h * np.abs(v[:, 1:]) + np.abs(c0 * x[:, 1:]) + np.abs(c1 * x[:, :-1]) + np.abs(c2 * older_x)
    tolerance = EPS * ((ROUND_OFF + 2.0) * scale[..., None] + 4.0 * rounding)
    return np.abs(G), tolerance, np.abs(kinematics), 4.0 * EPS * reach


MOVING = ("pendulum", "damped_pendulum", "double", "rope", "graph")


def motions(sim, first):
    """64 rollouts from random starts under random actions."""
    return sim.rollout(systems.start(sim, 64, seed=200, first=first), systems.actions(sim, 64, 30))


@pytest.mark.parametrize("first", (True, False))
@pytest.mark.parametrize("name", MOVING)
def test_ok_means_the_step_equations_hold_to_round_off(simulator, name, first):
    sim = simulator(name)
    trajectory = motions(sim, first)
    solved = (trajectory.status == Status.OK).numpy()
    assert solved.mean() > 0.9
    G, tolerance, kinematics, rounding = residual(sim, trajectory)
    assert (G <= tolerance)[solved].all(), f"worst {(G / tolerance)[solved].max()} of the tolerance"
    assert (kinematics <= rounding)[solved].all()
    assert tolerance.max() < 1e-8  # newtons
    trajectory.v[:, 1:] += 1e-9
    assert (residual(sim, trajectory)[0] > tolerance).any()


@pytest.mark.parametrize("first", (True, False))
@pytest.mark.parametrize("name", MOVING)
def test_random_motions_converge(simulator, name, first):
    trajectory = motions(simulator(name), first)
    failed = [(b, int((trajectory.status[b] != 0).nonzero()[0])) for b in (~trajectory.ok).nonzero().flatten().tolist()]
    assert trajectory.ok.all(), f"(rollout, step) {failed}"


# Hard steps


def hard(damping=0.0):
    """Three points whose springs differ by 1e8 in stiffness."""
    b = Builder("hard", dim=2)
    nodes = [b.handle((0, 0), axes="xy"), *(b.point((0, -0.1 * n), mass=0.05) for n in (1, 2, 3))]
    b.cable(nodes[0], nodes[1], stiffness=1e8)
    b.spring(nodes[1], nodes[2], stiffness=1.0, damping=damping)
    b.cable(nodes[2], nodes[3], stiffness=1e4, damping=damping)
    return b.build()


def assert_solved_or_refused(sim, start, a):
    """Rows and gradient are finite; a step is solved to round-off or carries another status than OK."""
    trajectory = sim.rollout(start, a)
    for rows in ("x", "v", "p"):
        assert torch.isfinite(getattr(trajectory, rows)).all()
    known = torch.tensor([int(status) for status in Status])
    assert torch.isin(trajectory.status, known).all()
    G, tolerance, _, _ = residual(sim, trajectory)
    solved = (trajectory.status == Status.OK).numpy()
    assert solved.any() and (G <= tolerance)[solved].all(), f"worst {(G / tolerance)[solved].max()} of the tolerance"
    a = a.clone().requires_grad_()
    (sim.rollout(start, a).x ** 2).sum().backward()
    assert torch.isfinite(a.grad).all() and (a.grad[~trajectory.ok] == 0).all()
    return trajectory.ok


def adversarial(sim, spots, N=20):
    """Starts at each of `spots`, with actions of 0.3 m/s, of none, and of a million times a limit of 0.6 m/s."""
    x = torch.stack(spots).repeat(3, 1, 1)
    B = len(x)
    start = sim.start(B, x=x, v=systems.random(*x.shape, seed=301, scale=0.5))
    a = systems.actions(sim, B, N)
    a[B // 3 : 2 * B // 3] = 0.0
    a[2 * B // 3 :] = 0.6e6 * a[2 * B // 3 :].sign()
    return start, a, torch.arange(B) < 2 * B // 3


def spots(system, random=9):
    """As built, with cables at their rest length; all points at one place, a handle's or not; crumpled at random."""
    P, d = system.points, system.dim
    home, down = torch.as_tensor(system.home[:1].copy()).expand(P, d), torch.zeros(P, d, dtype=torch.float64)
    down[:, -1] = -0.1
    return [torch.as_tensor(system.rest.copy()), home, down, *systems.random(random, P, d, seed=300, scale=0.1)]


@pytest.mark.parametrize("damping", (0.0, 0.5))
def test_hard_steps_converge_or_say_why_not_and_nothing_is_nan(simulator, damping):
    """Stiffness ratio 1e8, cables exactly at rest length, coincident points, random crumples, actions a million
    times too fast."""
    sim = Simulator(hard(damping), 0.02)
    start, a, calm = adversarial(sim, spots(sim.system))
    ok = assert_solved_or_refused(sim, start, a)
    if damping == 0.0:
        assert ok[calm].all()  # a potential to descend on
        a = 1e6 * systems.actions(sim, len(a), 20)
        assert assert_solved_or_refused(sim, start, a).all()


def ladder(ratio):
    """A chain whose springs are stiff and soft in turn, by `ratio`; the last two points are built at one place."""
    b = Builder("ladder", dim=2)
    nodes = [b.handle((0, 0), axes="xy"), *(b.point((0, -0.1 * n), mass=0.05) for n in (1, 2, 3, 3))]
    b.cable(nodes[0], nodes[1], stiffness=10.0 * ratio)
    b.spring(nodes[1], nodes[2], stiffness=10.0)
    b.spring(nodes[2], nodes[3], stiffness=10.0 * ratio)
    b.spring(nodes[3], nodes[4], stiffness=10.0, length=0.0)
    return b.build()


@pytest.mark.parametrize("ratio", (1.0, 1e2, 1e4, 1e6, 1e8))
def test_chains_of_any_stiffness_ratio_converge_or_say_why_not(simulator, ratio):
    sim = Simulator(ladder(ratio), 0.02)
    start, a, calm = adversarial(sim, spots(sim.system))
    ok = assert_solved_or_refused(sim, start, a)
    assert ratio > 1e4 or ok[calm].all()


def test_hard_steps_of_a_cloth_in_contact_converge_or_say_why_not(simulator):
    """Flat on the table, all points at one place on it and 10 cm below, crumpled through it; grips a million times too
    fast."""
    sim = Simulator(cloth.system(3), 0.016)
    start, a, calm = adversarial(sim, spots(sim.system), N=10)
    ok = assert_solved_or_refused(sim, start, a)
    assert ok[calm].all()
