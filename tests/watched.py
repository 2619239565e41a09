"""What a viewer's help names, and what its simulation did."""

import re

from viz.session import Session
from viz.viewer import HELP

MOUSE = ("left drag", "right drag,")


def help_keys():
    """Every key that the help names, as the window calls it."""
    keys = []
    for entry in (part for line in HELP for part in re.split(r"\s{3,}", line)):
        named = entry.rpartition("  ")[0]
        for words in MOUSE:
            named = named.replace(words, "")
        keys += named.split()
    return [key for word in keys for key in (["left", "right", "up", "down"] if word == "arrows" else [word])]


def moved(s: Session, performer=0):
    """(m,) m/s, what the handles of a performer's first copy did in the last step."""
    before, after = (row.p[performer * s.count].reshape(-1) for row in s.history[-2:])
    return (after - before) @ s.task.system.axes / s.task.h
