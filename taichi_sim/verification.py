"""Taylor remainders: how fast a linear prediction becomes right as the step shrinks."""

import torch

HALVINGS = 24
WINDOW = 5


def taylor_rate(f, derivative, first=0.01):
    """The rate at which ‖f(ε) − f(0) − ε f′‖ falls with ε, farthest from 2 over all states; 2 when f′ is right.

    f: takes ε (K,) and returns (K, B, D), for each of B states a function along each of D directions, or (K, B)
    derivative: (B, D) or (B,), what f′(0) is said to be
    first: the largest ε; it is halved `HALVINGS` times

    Each state is judged by its best `WINDOW` consecutive halvings among those whose remainder stands 30 times above
    the round-off of f, itself measured: the scatter of f about a straight line over steps too small to curve it. A
    state with fewer halvings above round-off makes the answer infinite.
    """
    if derivative.ndim == 1:
        return taylor_rate(lambda eps: f(eps)[..., None], derivative[:, None], first)
    options = {"dtype": derivative.dtype, "device": derivative.device}
    small = first * 2.0 ** -torch.arange(HALVINGS + 1, **options)
    values = f(torch.cat([torch.zeros(1, **options), small]))
    noise = _round_off(f, first, options) + torch.finfo(derivative.dtype).tiny
    remainder = (values[1:] - values[0] - small[:, None, None] * derivative).norm(dim=-1)
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


def taylor_rate_of_input(value, tensor, generator=None, directions=4, first=0.01):
    """`taylor_rate` of value (R, ...) -> (R,) with respect to `tensor` (B, ...), its gradient by autograd.

    Each state's remainder is the norm over several random unit directions: along a single one the second derivative
    can vanish by chance, and the remainder is cubic. `value` is called with R a multiple of B copies of the states,
    state by state within a copy.
    """
    leaf = tensor.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    along = torch.randn(directions, *tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    along = along / along.flatten(2).norm(dim=2).view(directions, -1, *[1] * (tensor.ndim - 1))
    derivative = (along * gradient).flatten(2).sum(2).T

    def f(eps):
        moved = tensor + eps.view(-1, *[1] * along.ndim) * along
        with torch.no_grad():
            return value(moved.flatten(0, 2)).view(len(eps), directions, -1).transpose(1, 2)

    return taylor_rate(f, derivative, first)


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
    """(B,) the largest deviation of f (K, B, D) from a straight line over 33 steps of at most 1e-9 · first."""
    tiny = torch.linspace(-1e-9 * first, 1e-9 * first, 33, **options)
    values = f(tiny)
    centred = (values - values.mean(0)).flatten(1)
    line = tiny / tiny.norm()
    return (centred - line[:, None] * (line @ centred)).view_as(values).norm(dim=-1).amax(0)
