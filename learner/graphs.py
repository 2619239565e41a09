"""Gradient steps of a small network without the host's time: on a GPU recorded once as a CUDA graph, then replayed.

A step on a few hundred samples is some fifty launches, which take the host ten times as long as the GPU their work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

WARM = 2  # calls before the one that is recorded; libraries and the optimiser allocate then


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Adam:
    """Adam whose step can be recorded, where its parameters are on a GPU; its rate is for `set_rate`."""
    parameters = list(parameters)
    if parameters[0].device.type != "cuda":
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    rate = torch.tensor(rate, device=parameters[0].device)
    return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: float):
    """Set the learning rate, in place where a recorded step reads it."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def replayed(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`step`, or on a GPU a recording of it that does the same.

    Whenever it is called `step` must launch the same work on the same memory, and read nothing back.
    """
    return Recorded(step) if device.type == "cuda" else step


class Recorded:
    """Runs `step` as it is `WARM` times, then its recording (PyTorch's notes on CUDA graphs, whole-network capture)."""

    def __init__(self, step: Callable[[], None]):
        self._step, self._calls, self._graph, self._stream = step, 0, None, torch.cuda.Stream()

    def __call__(self):
        if self._graph is None and self._calls < WARM:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._step()
            torch.cuda.current_stream().wait_stream(self._stream)
            self._calls += 1
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._step()
        self._graph.replay()
