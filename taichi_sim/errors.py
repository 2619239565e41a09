"""The error that every public entry raises for a wrong argument."""


class InputError(ValueError):
    """An argument is wrong: the message names it, what was expected and what was found."""


def expect(condition, name, expected, found):
    """Raise ``InputError("name: expected ..., got ...")`` unless `condition` holds."""
    if not condition:
        raise InputError(f"{name}: expected {expected}, got {found}")


class OutOfMemory(InputError):
    """What was asked for does not fit, and the process has no memory left for anything else."""
