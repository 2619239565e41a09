"""What the C++ knows at compile time: the constants of a system, and where its factorisation puts what."""

import numpy as np
import torch

from taichi_sim.elimination import Elimination
from taichi_sim.forces import ETA
from taichi_sim.newton import ROUND_OFF
from tasks import Task


def header(name: str, task: Task) -> str:
    """systems.h: the constants in a namespace `name`."""
    tolerance = ROUND_OFF * torch.finfo(torch.float64).eps
    constants = _constants(task) | (_factors(task.system) if task.system.planes else {})
    lines = ["#pragma once", f"constexpr double ETA = {ETA!r}, ROUND_OFF = {tolerance!r};"]
    lines += [f"namespace {name} {{", *(_define(*item) for item in constants.items()), "}"]
    return "\n".join(lines) + "\n"


def _define(name, value) -> str:
    array = np.asarray(value)
    kind = "int" if array.dtype.kind == "i" else "double"
    if array.ndim == 0:
        return f"constexpr {kind} {name} = {array.item()!r};"
    numbers = ", ".join(map(repr, array.tolist()))
    return f"constexpr {kind} {name}[] = {{{numbers}}};"


def _constants(task: Task) -> dict:
    """Springs between points first, then those that end at a handle, which is their second node, as in Mechanics."""
    s = task.system
    P = s.points
    ends = np.where(s.ends[:, :1] < P, s.ends, s.ends[:, ::-1])
    held = ends[:, 1] >= P
    order = np.argsort(held, kind="stable")
    if not s.planes:  # a chain is walked from the handle on
        order = np.argsort(np.where(held, -1, ends[:, 0]), kind="stable")
    rows, columns = np.nonzero(s.axes)
    assert np.array_equal(columns, np.arange(s.actions)) and (s.axes[rows, columns] == 1).all()
    constants = {
        "STEP": task.h,
        "POINTS": P,
        "HANDLES": s.handles,
        "ACTIONS": s.actions,
        "SPRINGS": s.springs,
        "HELD": int(held.sum()),
        "driven": rows,
        "masses": s.mass,
        "gravity": s.gravity,
        "first": ends[order, 0].astype(int),
        "second": (ends[order, 1] - P * held[order]).astype(int),
        "stiffness": s.stiffness[order],
        "length": s.length[order],
        "blend": s.blend[order],
    }
    if s.planes:
        assert s.planes == 1 and s.normal.tolist() == [[0.0, 0.0, 1.0]]
        assert not s.unilateral.any() and not s.damping.any()
        for name in ("offset", "contact_stiffness", "contact_blend", "friction", "tangential_stiffness"):
            constants[name] = getattr(s, name)[0]
    else:
        assert s.unilateral.all() and not s.damping.any() and constants["HELD"] == 1
        assert constants["first"].tolist() == [0, *range(P - 1)] and constants["second"].tolist() == [0, *range(1, P)]
    return constants


def _factors(s) -> dict:
    """The factors' blocks, numbered as they are made: entry f joins the pivot to a point eliminated later.

    order: the points as they are eliminated      starts: the pivot's first entry      other: an entry's later point
    spring: the spring along an entry, or −1      above, column: entries that meet the pivot as their later point
    products, left, right: from an entry (i, j), pairs of entries (k, i) and (k, j) of all earlier k
    """
    P = s.points
    ends = [tuple(sorted(e)) for e in s.ends.tolist()]
    inner = [e for e in ends if e[1] < P]
    elimination = Elimination.of(P, inner)
    place = {i: n for n, i in enumerate(elimination.order)}
    entries, starts = [], [0]
    for i in elimination.order:
        entries += [(i, j) for j in sorted(elimination.later[i], key=place.get)]
        starts.append(len(entries))
    number = {pair: f for f, pair in enumerate(entries)}
    meets = [[number[k, i] for k in elimination.order if (k, i) in number] for i in elimination.order]
    pairs = [
        [(number[k, i], number[k, j]) for k in elimination.order if (k, i) in number and (k, j) in number]
        for i, j in entries
    ]
    along = {pair: e for e, pair in enumerate(inner)}
    assert len(along) == len(inner)
    flat = [pair for of in pairs for pair in of]
    return {
        "ENTRIES": len(entries),
        "order": np.array(elimination.order),
        "starts": np.array(starts),
        "other": np.array([j for _, j in entries]),
        "spring": np.array([along.get(tuple(sorted(pair)), -1) for pair in entries]),
        "above": np.cumsum([0] + [len(m) for m in meets]),
        "column": np.array([f for m in meets for f in m]),
        "products": np.cumsum([0] + [len(p) for p in pairs]),
        "left": np.array([f for f, _ in flat]),
        "right": np.array([f for _, f in flat]),
    }
