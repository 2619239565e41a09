"""Linear-Gaussian controllers near a policy: the C-step of mirror-descent guided policy search.

Along a rollout of a policy π̄ (s̄, ā) the dynamics, the policy and the cost are

    δs₊ = A δs + B δa,    π̄(δa|δs) = N(K̄ δs, Σ̄),    c = g_s·δs₊ + ½ δs₊ᵀQ δs₊ + g_a·δa + ½ δaᵀR δa,

and the controllers p_t(δa|δs) = N(K_t δs + k_t, C_t) solve

    min E_p[Σ c]   subject to   D_KL(p ‖ π̄) = Σ_t E_p[D_KL(p_t(·|δs) ‖ π̄(·|δs))] ≤ ε                          (*)

(Montgomery & Levine 2016, NeurIPS, "Guided policy search via approximate mirror descent", C-step of Algorithm 1). With
a multiplier η, E_p[Σ c] + η D_KL is an LQR problem with the entropy of p (Levine & Abbeel 2014, NeurIPS, section 3.1).
"""

from __future__ import annotations

import dataclasses
import math

import torch

ROUNDS = 12  # of the active-set method for the bounds of one step's actions
SEARCH = 40  # evaluations of the KL divergence by η
TOLERANCE = 0.1  # of the KL divergence, relative
NARROWEST = 0.01  # bracket of log η; the divergence jumps, perhaps across ε, where an action reaches its bound
ETA_LEAST, ETA_MOST = 1e-8, 1e12
STEEPEST, FIRST, FLATTEST = -2.0, -1.0, -0.3  # slope of log D_KL by log η: −2 near π̄, flat once C has collapsed


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """The linear-quadratic-Gaussian problem along B rollouts of N steps; n and m numbers in state and action.

    AB (B, N, n, n + m): [A B]
    g_s (B, N, n), q (1 or B, N, n): of the state after step t; g_a (B, N, m), r (1 or B, N, m)
    gain (B, N, m, n): K̄        covariance (m, m): Σ̄
    lower, upper (B, N, m): what δa may be
    """

    AB: torch.Tensor
    g_s: torch.Tensor
    g_a: torch.Tensor
    q: torch.Tensor
    r: torch.Tensor
    gain: torch.Tensor
    covariance: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor

    def __len__(self):
        return len(self.AB)

    @property
    def A(self) -> torch.Tensor:
        return self.AB[..., : self.AB.shape[2]]

    @property
    def B(self) -> torch.Tensor:
        return self.AB[..., self.AB.shape[2] :]

    def __getitem__(self, rows) -> Model:
        """The rollouts selected by a mask or an index tensor."""
        shared = {"covariance"} | {name for name in ("q", "r") if len(getattr(self, name)) == 1}
        values = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return Model(**{name: value if name in shared else value[rows] for name, value in values})


@dataclasses.dataclass(frozen=True, eq=False)
class Controllers:
    """p_t(δa|δs) = N(K δs + k, C).

    K (B, N, m, n)    k (B, N, m)    C (B, N, m, m)
    """

    K: torch.Tensor
    k: torch.Tensor
    C: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What controllers do in the model.

    kl: (B,) D_KL(p ‖ π̄)
    gain: (B,) by how much the cost falls along the mean
    cost: (B,) E_p[Σ c], relative to the rollout
    """

    kl: torch.Tensor
    gain: torch.Tensor
    cost: torch.Tensor


def optimal_controllers(model: Model, eta: torch.Tensor) -> Controllers:
    """argmin E_p[Σ c] + η D_KL(p ‖ π̄) for η (B,) > 0, by a backward pass. With W = Σ̄⁻¹ and cost to go ½ δsᵀP δs + bᵀδs,

        Q_aa = Bᵀ(P + Q)B + R + ηW,   Q_as = Bᵀ(P + Q)A − ηW K̄,   Q_ss = Aᵀ(P + Q)A + η K̄ᵀW K̄,
        q_a = Bᵀ(b + g_s) + g_a,      q_s = Aᵀ(b + g_s),
        k = −Q_aa⁻¹ q_a,   K = −Q_aa⁻¹ Q_as,   C = η Q_aa⁻¹,   P ← Q_ss + Q_saK,   b ← q_s + Q_sa k.

    The mean action at δs = 0 is kept within its bounds, and actions held there do not react to the state
    (control-limited DDP: Tassa, Mansard & Todorov 2014, ICRA, section III.C).
    """
    B, N, n, m = model.B.shape
    W = torch.linalg.inv(model.covariance)
    K, k = torch.empty_like(model.gain), torch.empty_like(model.g_a)
    C = torch.empty(B, N, m, m, dtype=K.dtype, device=K.device)
    P, b = torch.zeros_like(model.A[:, 0]), torch.zeros_like(model.g_s[:, 0])
    eta = eta[:, None, None]
    for t in reversed(range(N)):
        P.diagonal(dim1=1, dim2=2).add_(model.q[:, t])
        near = eta * W @ model.gain[:, t]
        M = model.AB[:, t].mT @ (P @ model.AB[:, t])
        y = _times(model.AB[:, t].mT, b + model.g_s[:, t])
        Q_aa = M[:, n:, n:] + torch.diag_embed(model.r[:, t]) + eta * W
        Q_as = M[:, n:, :n] - near
        k[:, t], K[:, t] = _bounded(Q_aa, Q_as, y[:, n:] + model.g_a[:, t], model.lower[:, t], model.upper[:, t])
        C[:, t] = eta * torch.cholesky_inverse(torch.linalg.cholesky(Q_aa))
        P = M[:, :n, :n] + model.gain[:, t].mT @ near + Q_as.mT @ K[:, t]
        P = 0.5 * (P + P.mT)
        b = y[:, :n] + _times(Q_as.mT, k[:, t])
    return Controllers(K, k, C)


def _bounded(Q, Q_s, q, lower, upper):
    """k = argmin ½kᵀQk + qᵀk within the bounds, and K = dk/ds where q grows by Q_s δs: zero rows for held actions."""
    held, k = torch.zeros_like(q, dtype=torch.bool), torch.zeros_like(q)
    eye = torch.eye(q.shape[1], dtype=q.dtype, device=q.device)
    for _ in range(ROUNDS):
        free = (~held).to(q.dtype)
        block = torch.linalg.cholesky(free[:, :, None] * Q * free[:, None, :] + (1 - free)[:, :, None] * eye)
        bound = torch.where(held, k, 0.0)
        k = bound - torch.cholesky_solve((free * (q + _times(Q, bound)))[..., None], block)[..., 0]
        slope = q + _times(Q, k)
        outside = (k < lower) | (k > upper)
        k = torch.minimum(torch.maximum(k, lower), upper)
        inward = held & torch.where(k <= lower, slope < 0, slope > 0)
        if not (outside | inward).any():
            break
        held = (held | outside) & ~inward
    return k, -torch.cholesky_solve(free[:, :, None] * Q_s, block)


def outcome(model: Model, controllers: Controllers) -> Outcome:
    """Mean δs̄ and covariance S of the state go forward from δs = 0, S = 0:

    S₊ = (A + BK) S (A + BK)ᵀ + B C Bᵀ,   e = (K − K̄) δs̄ + k,
    D_KL = Σ_t ½ (eᵀWe + tr W(C + (K − K̄) S (K − K̄)ᵀ) − m + log|Σ̄| − log|C|).
    """
    N, m = model.g_a.shape[1:]
    W = torch.linalg.inv(model.covariance)
    volume = torch.logdet(model.covariance) - torch.logdet(controllers.C).sum(1) / N
    kl = 0.5 * N * (volume - m)
    mean, S = torch.zeros_like(model.g_s[:, 0]), torch.zeros_like(model.A[:, 0])
    change, spread = torch.zeros_like(kl), torch.zeros_like(kl)
    for t in range(N):
        K, C, A, B = controllers.K[:, t], controllers.C[:, t], model.A[:, t], model.B[:, t]
        turn = K - model.gain[:, t]
        e = _times(turn, mean) + controllers.k[:, t]
        kl = kl + 0.5 * ((_times(W, e) * e).sum(1) + ((C + turn @ S @ turn.mT) * W).sum((1, 2)))
        action, noise = _times(K, mean) + controllers.k[:, t], K @ S @ K.mT + C
        loop = A + B @ K
        mean, S = _times(A, mean) + _times(B, action), loop @ S @ loop.mT + B @ C @ B.mT
        change = change + _quadratic(model.g_s[:, t], model.q[:, t], mean)
        change = change + _quadratic(model.g_a[:, t], model.r[:, t], action)
        spread = spread + 0.5 * (model.q[:, t] * _diagonal(S)).sum(1) + 0.5 * (model.r[:, t] * _diagonal(noise)).sum(1)
    return Outcome(kl, -change, change + spread)


def constrained_controllers(model: Model, limit: float, eta: torch.Tensor):
    """Solve (*) with ε = `limit` for every rollout, from the guess `eta` (B,): controllers, their `Outcome` and η (B,).

    D_KL falls with η. Secants of log D_KL by log η, with bisection where they leave the bracket, go on until D_KL is
    within 10 % of ε, or below it at the least η: then the constraint is not active. Where D_KL jumps across ε, η is the
    least to 1 % that satisfies the constraint.
    """
    least, most = math.log(ETA_LEAST), math.log(ETA_MOST)
    z = eta.log().clamp(least, most)
    low, high = torch.full_like(z, least), torch.full_like(z, most)
    past, f_past = torch.full_like(z, torch.nan), torch.full_like(z, torch.nan)
    controllers = optimal_controllers(model, z.exp())
    result = outcome(model, controllers)
    for _ in range(SEARCH):
        f = (result.kl.clamp(min=torch.finfo(z.dtype).tiny) / limit).log()
        low, high = torch.where(f > 0, z, low), torch.where(f < 0, z, high)
        narrow = high - low < NARROWEST
        met = ((result.kl / limit - 1).abs() <= TOLERANCE) | ((f < 0) & (narrow | (z <= least)))
        open_ = torch.nonzero(~met).flatten()
        if not len(open_):
            break
        slope = ((f - f_past) / (z - past)).nan_to_num(FIRST).clamp(STEEPEST, FLATTEST)
        secant = z - f / slope
        bracketed = (low > least) & (high < most)
        leaves = (secant <= low) | (secant >= high)
        after = torch.where(bracketed & leaves, 0.5 * (low + high), secant.clamp(least, most))
        after = torch.where(narrow, high, after)
        past[open_], f_past[open_] = z[open_], f[open_]
        z[open_] = after[open_]
        part = model if len(open_) == len(z) else model[open_]
        found = optimal_controllers(part, z[open_].exp())
        for whole, new in ((controllers, found), (result, outcome(part, found))):
            for field in dataclasses.fields(whole):
                getattr(whole, field.name)[open_] = getattr(new, field.name)
    return controllers, result, z.exp()


def _times(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def _diagonal(matrix):
    return matrix.diagonal(dim1=1, dim2=2)


def _quadratic(slope, curvature, y):
    """(B,) slope·y + ½ Σ curvature y²."""
    return (slope * y + 0.5 * curvature * y.square()).sum(1)
