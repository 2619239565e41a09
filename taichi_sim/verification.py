"""Taylor remainders: how fast a linear prediction becomes right as the step shrinks."""

import torch

HALVINGS = 24
WINDOW = 5


def taylor_rate(f, derivative, first=0.01):
    """The rate at which |f(ε) − f(0) − ε f′| falls with ε, farthest from 2 over all states; 2 when f′ is right.

    f: takes ε (K,) and returns (K, B), one scalar function per state
    derivative: (B,), what f′(0) is said to be
    first: the largest ε; it is halved `HALVINGS` times

    Each state is judged by its best `WINDOW` consecutive halvings among those whose remainder stands 30 times above
    the round-off of f, itself measured: the scatter of f about a straight line over steps too small to curve it. A
    state with fewer halvings above round-off makes the answer infinite.
    """
    options = {"dtype": derivative.dtype, "device": derivative.device}
    small = first * 2.0 ** -torch.arange(HALVINGS + 1, **options)
    values = f(torch.cat([torch.zeros(1, **options), small]))
    noise = _round_off(f, first, options) + torch.finfo(derivative.dtype).tiny
    remainder = (values[1:] - values[0] - small[:, None] * derivative).abs()
    above = remainder > 30.0 * noise
    rates = torch.log2(remainder[:-1] / remainder[1:])
    error = torch.where(above[:-1] & above[1:], (rates - 2.0).abs(), torch.inf)
    windows = error.unfold(0, WINDOW, 1).amax(-1)
    best, at = windows.min(0)
    state = int(best.argmax())
    if best[state] == torch.inf:
        return float("inf")
    chosen = rates[at[state] : at[state] + WINDOW, state]
    return float(chosen[(chosen - 2.0).abs().argmax()])


def probe(gradient, generator=None):
    """Directions (B, ...) to take remainders in: a random unit vector plus the gradient's, at an acute angle.

    Along a random direction alone the second derivative can vanish by chance, and the remainder is cubic; along the
    gradient a sum of squares bends. An error in any component of the gradient still shows as rate 1.
    """
    random = torch.randn(gradient.shape, generator=generator, dtype=torch.float64).to(gradient)

    def unit(y):
        return y / y.flatten(1).norm(dim=1).clamp(min=torch.finfo(y.dtype).tiny).view(-1, *[1] * (y.ndim - 1))

    along = (random * gradient).flatten(1).sum(1).sign().view(-1, *[1] * (gradient.ndim - 1))
    return unit(random) * torch.where(along == 0, 1.0, along) + unit(gradient)


def adjoint_mismatch(simulator, trajectory, generator=None):
    """|⟨w, S u⟩ − ⟨Sᵀw, u⟩| / (‖w‖‖S u‖ + ‖Sᵀw‖‖u‖) (B,) for random action changes u and row weights w."""

    def random(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device, like.dtype)

    def dot(these, those):
        return sum((a.flatten(1) * b.flatten(1)).sum(1) for a, b in zip(these, those, strict=True))

    u = random(trajectory.a)
    w = [random(rows) for rows in (trajectory.x, trajectory.v, trajectory.p)]
    pushed, pulled = simulator.jvp(trajectory, u), simulator.vjp(trajectory, *w).a
    size = (dot(w, w) * dot(pushed, pushed)).sqrt() + (dot([pulled], [pulled]) * dot([u], [u])).sqrt()
    return (dot(w, pushed) - dot([pulled], [u])).abs() / size


def _round_off(f, first, options):
    """(B,) the largest deviation of f from a straight line over 33 steps of at most 1e-9 · first."""
    tiny = torch.linspace(-1e-9 * first, 1e-9 * first, 33, **options)
    values = f(tiny)
    line = torch.stack([torch.ones_like(tiny), tiny / tiny.abs().max()], 1)
    middle = values.mean(0)
    fitted = line @ torch.linalg.lstsq(line, values - middle).solution
    return (values - middle - fitted).abs().amax(0)
