"""The time step against closed forms: convergence, free flight, statics, energy, momentum.

With y = (x, v) the step is BDF2, (3 y₁ − 4 y₀ + y₋₁)/2h = f(y₁), after a first step of BDF1.
"""

import numpy as np
import pytest
import systems
import taichi as ti
import torch

from taichi_sim import Builder, Simulator
from taichi_sim.builder import GRAVITY
from taichi_sim.energy import bilateral, engagement, softness, unilateral


def rollout(simulator, N, x=None, v=None, velocity=None):
    """One healthy rollout of N steps with constant handle velocity (m,); its x (N+1, P, d), v and p."""
    start = simulator.start(1, x=x, v=v)
    a = torch.zeros(1, N, simulator.system.actions, dtype=torch.float64)
    if velocity is not None:
        a[:] = torch.tensor(velocity, dtype=torch.float64)
    trajectory = simulator.rollout(start, a)
    assert trajectory.ok.all()
    return trajectory.x[0].numpy(), trajectory.v[0].numpy(), trajectory.p[0].numpy()


def assert_order(errors, order, within=0.05):
    """Each halving of h divides the error by 2^order."""
    assert len(errors) >= 7
    found = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.abs(found - order).max() <= within, f"orders {found}"


def tensor(values):
    return torch.as_tensor(np.array(values, dtype=float))


# Convergence


def test_oscillator_converges_with_order_two(simulator):
    """z = x − p obeys z̈ = −ω² z with ω² = k/m, ż(0) = v(0) − u for a handle that moves at constant velocity u."""
    x0, v0, u, T = np.array([0.3, -0.2]), np.array([0.4, 1.0]), np.array([0.5, -0.3]), 1.0
    omega = 5.0
    z = x0 * np.cos(omega * T) + (v0 - u) / omega * np.sin(omega * T)
    zdot = -omega * x0 * np.sin(omega * T) + (v0 - u) * np.cos(omega * T)
    x_errors, v_errors = [], []
    for n in range(7):
        N = 100 * 2**n
        x, v, p = rollout(simulator("oscillator", T / N), N, v=tensor([v0]), velocity=u)
        assert np.abs(p[-1, 0] - u * T).max() < 1e-12
        x_errors.append(np.linalg.norm(x[-1, 0] - (u * T + z)))
        v_errors.append(np.linalg.norm(v[-1, 0] - (u + zdot)))
    assert_order(x_errors, 2)
    assert_order(v_errors, 2)


@pytest.mark.parametrize(("name", "damping"), (("spring_pendulum", 0.0), ("damped_pendulum", 0.2)))
def test_spring_pendulum_converges_with_order_two(simulator, name, damping):
    """Against the equation of motion integrated by the classical Runge–Kutta method with 20,000 steps."""
    k, m, L, u, T = 20.0, 0.05, 0.5, np.array([0.3, 0.0]), 1.0
    x0, v0 = np.array([0.2, -0.5]), np.array([0.4, 0.3])

    def rate(t, y):
        x, v = y
        span = x - u * t
        length = np.linalg.norm(span)
        n = span / length
        force = -(k * (length - L) + damping * (v - u) @ n) * n
        return np.array([v, force / m + [0.0, -GRAVITY]])

    y, steps = np.array([x0, v0]), 20_000
    h = T / steps
    for i in range(steps):
        t = i * h
        k1 = rate(t, y)
        k2 = rate(t + h / 2, y + h / 2 * k1)
        k3 = rate(t + h / 2, y + h / 2 * k2)
        k4 = rate(t + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    errors = []
    for n in range(7):
        N = 1600 * 2**n
        x, v, _ = rollout(simulator(name, T / N), N, x=tensor([x0]), v=tensor([v0]), velocity=u[:1])
        errors.append(np.linalg.norm([x[-1, 0] - y[0], v[-1, 0] - y[1]]))
    assert_order(errors, 2)


# Free flight, statics


def free_flight(x0, v0, h, N):
    """Rows of the discrete scheme. v is linear in t, which BDF1 and BDF2 reproduce: v_n = v₀ + n h g. The error
    of x is ½ h² g after BDF1 and then obeys 3 e₁ − 4 e₀ + e₋₁ = 0, whose roots are 1 and 1/3:
    x_n = x₀ + n h v₀ + ½ (n h)² g + ¾ h² g (1 − 3⁻ⁿ)."""
    n = np.arange(N + 1)[:, None]
    g = np.zeros(len(x0))
    g[-1] = -GRAVITY
    v = v0 + n * h * g
    x = x0 + n * h * v0 + 0.5 * (n * h) ** 2 * g + 0.75 * h * h * g * (1.0 - 3.0**-n)
    return x, v


def test_free_fall_equals_the_closed_form_of_the_scheme(simulator):
    x0, v0, h, N = np.array([0.0, 0.0]), np.array([0.7, 2.0]), 0.02, 60
    x, v, _ = rollout(simulator("free_point", h), N, v=tensor([v0]))
    x_exact, v_exact = free_flight(x0, v0, h, N)
    assert np.abs(x[:, 0] - x_exact).max() < 1e-13
    assert np.abs(v[:, 0] - v_exact).max() < 1e-13


def test_system_without_handles_has_actions_of_width_zero(simulator):
    sim = simulator("free_point")
    assert sim.system.axes.shape == (0, 0)
    trajectory = sim.rollout(sim.start(2), torch.zeros(2, 3, 0, dtype=torch.float64))
    assert trajectory.a.shape == (2, 3, 0) and trajectory.p.shape == (2, 4, 0, 2)
    assert trajectory.ok.all()
    assert sim.jacobian(trajectory).shape == (2, 3, 4, 3, 0)


def test_slack_cable_exerts_no_force(simulator):
    """Thrown up inside the cable's reach, the load flies as if free, and the handle has no hold on it."""
    sim, N = simulator("pendulum", 0.02), 12
    x0, v0 = np.array([0.05, -0.2]), np.array([0.2, 1.5])
    x, v, _ = rollout(sim, N, x=tensor([x0]), v=tensor([v0]))
    assert np.linalg.norm(x[:, 0], axis=1).max() < 0.5 - 5e-5  # slack: l − L ≤ −ε
    x_exact, v_exact = free_flight(x0, v0, 0.02, N)
    assert np.abs(x[:, 0] - x_exact).max() < 1e-14
    assert np.abs(v[:, 0] - v_exact).max() < 1e-14
    start = sim.start(1, x=tensor([x0]), v=tensor([v0]))
    S = sim.jacobian(sim.rollout(start, torch.zeros(1, N, 1, dtype=torch.float64)))
    assert (S[:, :, 1:] == 0).all()


def test_taut_cable_pulls_along_itself(simulator):
    """In the first step from rest, M (v₁ − v₀)/h = m g − k (l₁ − L) n₁."""
    h, x0 = 0.02, np.array([0.3, -0.42])
    x, v, _ = rollout(simulator("pendulum", h), 1, x=tensor([x0]))
    length = np.linalg.norm(x[1, 0])
    assert length > 0.5 + 5e-5
    force = 0.05 * np.array([0.0, -GRAVITY]) - 1000.0 * (length - 0.5) * x[1, 0] / length
    assert np.abs(0.05 * v[1, 0] / h - force).max() < 1e-9


@pytest.mark.parametrize(("name", "loads", "length"), (("pendulum", 1, 0.5), ("rope", 5, 0.1)))
def test_hanging_load_rests_where_statics_puts_it(simulator, name, loads, length):
    """Cable i is stretched by the weight below it, δ_i = (loads − i) m g / k. From any height the load settles
    there, since long BDF2 steps damp; and once there it stays."""
    stretch = (loads - np.arange(loads)) * 0.05 * GRAVITY / 1000.0
    rest = np.zeros((loads, 2))
    rest[:, 1] = -np.cumsum(length + stretch)
    x, v, _ = rollout(simulator(name, 0.5), 200)
    assert np.abs(x[0] - rest).max() > 4e-4
    assert np.abs(x[-1] - rest).max() < 1e-10
    assert np.abs(v[-1]).max() < 1e-10
    x, v, _ = rollout(simulator(name, 0.02), 100, x=tensor(rest))
    assert np.abs(x - rest).max() < 1e-10
    assert np.abs(v).max() < 1e-9


# Energy and momentum


def oscillator_energy(x, v, k=5.0, m=0.2):
    """E(y) = ½ m ‖v‖² + ½ k ‖x‖²: a quadratic form, the squared norm in which f is skew."""
    return (0.5 * m * v**2 + 0.5 * k * x**2).sum((-1, -2))


@pytest.mark.parametrize(("name", "damping"), (("oscillator", 0.0), ("damped_oscillator", 0.3)))
@pytest.mark.parametrize("h", (0.01, 0.1, 1.0))
def test_discrete_energy_falls_by_exactly_what_scheme_and_damper_take(simulator, name, damping, h):
    """The energy that BDF2 dissipates is its G-norm, not E itself. From the identity

        (6 a − 8 b + 2 c)·a = ‖a‖² + ‖2a − b‖² − ‖b‖² − ‖2b − c‖² + ‖a − 2b + c‖²

    in the norm E and 2 h E(f(y), y) = −h c (v·n)² follows, with G(a, b) = E(a) + E(2a − b),

        G(y₁, y₀) = G(y₀, y₋₁) − E(y₁ − 2 y₀ + y₋₁) − 2 h c (v₁·n₁)².
    """
    x, v, _ = rollout(simulator(name, h), 300, v=tensor([[0.5, 1.0]]))
    energy = oscillator_energy(x, v)
    G = energy[1:] + oscillator_energy(2 * x[1:] - x[:-1], 2 * v[1:] - v[:-1])
    bend = oscillator_energy(x[2:] - 2 * x[1:-1] + x[:-2], v[2:] - 2 * v[1:-1] + v[:-2])
    x1, v1 = x[2:, 0], v[2:, 0]
    damper = 2 * h * damping * (v1 * x1).sum(1) ** 2 / ((x1**2).sum(1) + 1e-12)  # η² = 1e-12 m²
    assert np.abs(np.diff(G) + bend + damper).max() < 1e-14 * G[0] * max(1.0, 1.0 / h)
    assert (np.diff(G) <= 1e-15 * G[0]).all()


@pytest.mark.parametrize("h", (0.01, 0.1, 1.0))
def test_energy_of_the_oscillator_stays_below_its_bound(simulator, h):
    """BDF1 gives E(y₁ − y₀, y₁) = 0 and so G(y₁, y₀) = E(y₁) + E(y₀); hence E(y_n) ≤ G ≤ E(y₀) + E(y₁)."""
    x, v, _ = rollout(simulator("oscillator", h), 300, v=tensor([[0.5, 1.0]]))
    energy = oscillator_energy(x, v)
    first = energy[1] + oscillator_energy(2 * x[1] - x[0], 2 * v[1] - v[0])
    assert abs(first - energy[0] - energy[1]) < 1e-14 * energy[0]
    assert energy[1] <= energy[0]
    assert (energy[2:] <= energy[0] + energy[1]).all()


def test_energy_error_of_the_oscillator_has_the_derived_coefficients(simulator):
    """Growth per step e^w solves w − w³/3 + w⁴/4 − … = z = iωh, so w = z + z³/3 − z⁴/4: the energy falls like
    1 − ½ ω⁴ h³ t. Before that, the error z²/2 of the BDF1 step splits onto the roots 1 and 1/3, which scales the
    amplitude by 1 + ¾ z² and the energy by 1 − 3/2 (ωh)²."""
    omega, T = 5.0, 1.0
    scaled, late, whole = [], [], []
    for n in range(7):
        N = 200 * 2**n
        h = T / N
        x, v, _ = rollout(simulator("oscillator", h), N, v=tensor([[0.5, 1.0]]))
        energy = oscillator_energy(x, v)
        whole.append(energy[0] - energy[-1])
        late.append(energy[N // 2] - energy[-1])
        scaled.append(
            [whole[-1] / energy[0] / (omega * h) ** 2, late[-1] / energy[0] / (0.5 * omega**4 * h**3 * T / 2)]
        )
    assert_order(whole, 2)
    assert_order(late, 3)
    assert np.abs(np.array(scaled[-1]) - [1.5, 1.0]).max() < 1e-2


def test_energy_error_of_the_pendulum_falls_with_order_two(simulator):
    """The scheme follows ẏ = f + h² y⃛/3 + O(h³) from a start off by O(h²) (the BDF1 step); for a nonlinear f the
    h² term changes E along the way, so that at a fixed time E − E₀ = O(h²)."""
    T, errors = 1.0, []
    for n in range(7):
        N = 1600 * 2**n
        x, v, _ = rollout(simulator("spring_pendulum", T / N), N, x=tensor([[0.2, -0.5]]), v=tensor([[0.4, 0.3]]))
        stretch = np.sqrt((x[:, 0] ** 2).sum(1) + 1e-12) - 0.5
        energy = 0.5 * 0.05 * (v[:, 0] ** 2).sum(1) + 0.05 * GRAVITY * x[:, 0, 1] + 0.5 * 20.0 * stretch**2
        errors.append(abs(energy[-1] - energy[0]))
    assert_order(errors, 2)


def test_spring_and_damper_conserve_momentum(simulator):
    """Internal forces cancel: Σ m v_n = Σ m v₀ + n h Σ m g, and the centre of mass flies freely."""
    h, N = 0.02, 60
    sim = simulator("free_pair", h)
    v0 = np.array([[1.0, 2.0], [-3.0, 0.5]])
    x, v, _ = rollout(sim, N, v=tensor(v0))
    mass = sim.system.mass[:, None]
    centre = (mass * x).sum(1) / mass.sum()
    x_exact, v_exact = free_flight((mass * sim.system.rest).sum(0) / mass.sum(), (mass * v0).sum(0) / mass.sum(), h, N)
    assert np.abs((mass * v).sum(1) / mass.sum() - v_exact).max() < 1e-12
    assert np.abs(centre - x_exact).max() < 1e-12
    apart = np.linalg.norm(x[:, 0] - x[:, 1], axis=1)
    assert np.ptp(apart) > 0.1  # the spring did work


# Energies


@ti.kernel
def _springs(k: float, eps: float, delta: ti.types.ndarray(ndim=1), out: ti.types.ndarray(ndim=2)):
    for i in range(delta.shape[0]):
        E, tension, slope = unilateral(delta[i], k, eps, softness(k, eps))
        out[0, i], out[1, i], out[2, i] = E, tension, slope
        E2, tension2, slope2 = bilateral(delta[i], k)
        out[3, i], out[4, i], out[5, i] = E2, tension2, slope2
        share, share_slope = engagement(delta[i], eps)
        out[6, i], out[7, i] = share, share_slope


def springs(delta, k=300.0, eps=1e-3):
    """unilateral E, E′, E″, bilateral E, E′, E″, engagement s, s′ at the elongations `delta`."""
    out = torch.zeros(8, len(delta), dtype=torch.float64)
    _springs(k, eps, torch.as_tensor(delta), out)
    return out.numpy()


def test_cable_energy_is_twice_continuously_differentiable(simulator):
    """E, E′, E″ agree on both sides of δ = ±ε to the change E‴ allows over the gap, and so do s, s′."""
    k, eps, gap = 300.0, 1e-3, 1e-12
    for edge in (-eps, eps):
        left, right = springs(np.array([edge - gap, edge + gap])).T
        jump = np.abs(right - left)
        assert jump[0] <= 2 * gap * k * 1.1 * eps
        assert jump[1] <= 2 * gap * 1.1 * k
        assert jump[2] <= 2 * gap * 1.1 * k / (2 * eps)
        assert jump[6] <= 2 * gap * 0.1 / eps and jump[7] <= 2 * gap * 1.6 / eps**2


def test_spring_derivatives_are_those_of_their_energies(simulator):
    """Central differences over ±s are exact but for E‴s²/6 (each branch is a cubic) and round-off."""
    k, eps, s = 300.0, 1e-3, 1e-7
    delta = np.linspace(-3 * eps, 3 * eps, 301)
    delta = delta[np.abs(np.abs(delta) - eps) > 2 * s]
    at, high, low = springs(delta), springs(delta + s), springs(delta - s)
    slope = (high - low) / (2 * s)
    noise = 1e-15 / s
    for row in (0, 3):  # E′ from E, E″ from E′
        assert np.abs(slope[row] - at[row + 1]).max() <= k / (2 * eps) * s**2 / 6 + noise * at[row].max()
        assert np.abs(slope[row + 1] - at[row + 2]).max() <= 2 * noise * np.abs(at[row + 1]).max()
    assert np.abs(slope[6] - at[7]).max() <= 1.5 / eps**3 * s**2 / 6 + noise


def test_cable_is_exactly_slack_below_the_blend_and_exactly_linear_above(simulator):
    k, eps = 300.0, 1e-3
    slack = springs(np.array([-eps, -2 * eps, -1.0]))
    assert (slack[:3] == 0).all() and (slack[6:] == 0).all()
    taut = np.array([eps, 5e-3, 0.2])
    at = springs(taut)
    assert np.allclose(at[0], 0.5 * k * taut**2 + k * eps**2 / 6, rtol=1e-15, atol=0)
    assert (at[1] == k * taut).all() and (at[2] == k).all() and (at[6] == 1).all()


# Systems


def test_digest_sees_every_number_that_can_change_the_motion_and_nothing_else(simulator):
    def build(name="pair", mass=0.1, stiffness=10.0, face=False, gravity=9.81):
        b = Builder(name, dim=2, gravity=gravity)
        nodes = [b.handle((0, 0), axes="x"), b.point((0, -1), mass=mass), b.point((1, 0), mass=0.1)]
        b.spring(nodes[0], nodes[1], stiffness=stiffness)
        if face:
            b.triangle(*nodes)
        return b.build().digest()

    assert build() == build() == build(name="other") == build(face=True)
    assert len({build(), build(mass=0.2), build(stiffness=11.0), build(gravity=1.6)}) == 4


def test_time_step_is_an_argument_of_the_kernels(simulator):
    """What the fixture `simulator` relies on: a copy with another h equals a Simulator made with that h."""
    own = Simulator(systems.oscillator(), 0.05)
    for row, fresh in zip(rollout(simulator("oscillator", 0.05), 20), rollout(own, 20), strict=True):
        assert (row == fresh).all()
