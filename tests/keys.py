"""The keys that the viewer's help names."""

import re

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
