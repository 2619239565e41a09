"""Ctrl-C and SIGTERM: the first one ends a command in order, a second one ends the process at once."""

from __future__ import annotations

import ctypes
import signal

SA_RESETHAND = 0x80000000


class Terminated(BaseException):
    """SIGTERM, raised where the process is."""


class _Action(ctypes.Structure):
    """struct sigaction of glibc."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * (1024 // (8 * ctypes.sizeof(ctypes.c_ulong)))),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def raise_on_signals():
    """SIGINT raises KeyboardInterrupt and SIGTERM `Terminated`, each once: then their default, death, is back.

    Python runs handlers between its own instructions, so the first waits for the kernel that is running. Therefore the
    way back to the default is the operating system's, which waits for nothing.
    """
    libc = ctypes.CDLL(None)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
        signal.signal(number, handler)
        action = _Action()
        libc.sigaction(number, None, ctypes.byref(action))
        action.flags = ctypes.c_int(action.flags | SA_RESETHAND).value
        libc.sigaction(number, ctypes.byref(action), None)


def _terminate(number, frame):
    raise Terminated
