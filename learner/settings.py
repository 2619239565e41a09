"""Settings of a learner: one dataclass, each field with a default, a range and a sentence of help."""

from __future__ import annotations

import dataclasses
import math

from taichi_sim.errors import InputError, expect
from tasks import Task


def setting(default, help: str, least=None, most=None):
    """A dataclass field whose value must be of the default's type and within [least, most]."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most})


def check(config):
    """Raise `InputError` naming the first field that is of the wrong type or out of range."""
    for field in dataclasses.fields(config):
        value, least, most = getattr(config, field.name), field.metadata["least"], field.metadata["most"]
        kind = type(field.default)
        if kind is float and type(value) is int:
            value = float(value)
            object.__setattr__(config, field.name, value)
        expected = f"{kind.__name__}"
        if least is not None:
            expected += f" >= {least}"
        if most is not None:
            expected += f"{' and' if least is not None else ''} <= {most}"
        good = type(value) is kind and (kind is not float or math.isfinite(value))
        good = good and (least is None or value >= least) and (most is None or value <= most)
        expect(good, field.name, expected, repr(value))


def from_dict(kind, values: dict):
    """A config of type `kind` from a dictionary of its fields; unknown names raise `InputError`."""
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise InputError(f"{name}: expected a setting of this learner ({', '.join(sorted(known))}), got {name!r}")
    return kind(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings that every learner has."""

    epochs: int = setting(100, "policy updates", 1)
    k: int = setting(4000, "rollouts an epoch, side by side", 1)
    minutes: float = setting(0.0, "of training after which no epoch begins, 0 for no limit", 0.0)
    failures: float = setting(0.1, "share of rollouts that may fail in an epoch before the run stops", 0.0, 1.0)
    seed: int = setting(0, "of weights, start states and batches", 0, 2**31 - 1)

    def __post_init__(self):
        check(self)

    def check_task(self, task: Task):
        """Raise `InputError` where a setting does not suit the task; called before a run begins."""
