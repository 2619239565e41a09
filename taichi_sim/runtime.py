"""Starting Taichi: once per process, from entry points and tests only, never at import."""

from __future__ import annotations

import atexit
import contextlib
import io
import math
import mmap
import os
import platform
import tempfile
import warnings
from pathlib import Path

import numpy as np
import taichi as ti
import torch

from . import alignment, contraction, processor, transcription
from .errors import InputError, expect

HUGE = 2**23  # bytes from which a tensor is large
PRECISIONS = {"float64": (ti.f64, torch.float64), "float32": (ti.f32, torch.float32)}


def init(device: str = "auto", precision: str = "float64", threads: int | None = None, debug: bool = False):
    """Start Taichi on `device` ("auto": CUDA if there is one, "cpu", "cuda") for physics in `precision`.

    Taichi's arrays and kernels die with a second start, so a process has one device and one precision; calling
    again with other arguments raises `InputError`, with the same ones does nothing.
    """
    expect(device in ("auto", "cpu", "cuda"), "device", "'auto', 'cpu' or 'cuda'", repr(device))
    expect(precision in PRECISIONS, "precision", f"one of {sorted(PRECISIONS)}", repr(precision))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: expected a CUDA device that PyTorch can use, got none")
    if started():
        now = (torch_device().type, str(dtype()).removeprefix("torch."))
        expect(now == (device, precision), "taichi_sim.init", f"{now}, as first started", (device, precision))
        return
    if device == "cpu":
        # PyTorch's large tensors in pages of 2 MiB, see `zeros`; heard if it has allocated nothing yet
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    options = {} if threads is None else {"cpu_max_num_threads": threads}
    known = processor.better_name() if device == "cpu" else None
    aligned, fused = (device == "cpu" and make() for make in (alignment.align_arrays, contraction.fuse))
    if "TI_LOG_LEVEL" not in os.environ:
        options["log_level"] = ti.WARN
    with contextlib.redirect_stdout(io.StringIO()):  # Taichi announces itself
        ti.init(
            arch=ti.cuda if device == "cuda" else ti.cpu,
            default_fp=PRECISIONS[precision][0],
            enable_fallback=False,
            fast_math=False,
            unrolling_limit=0,
            offline_cache=True,
            offline_cache_file_path=str(_cache(known, aligned and "aligned", fused and "fused")),
            debug=debug,
            **options,
        )
    if known is not None:
        processor.introduce(known)
    transcription.remember()
    atexit.register(ti.reset)  # writes the cache; left to the interpreter's end, torch's graphs can keep it from that


def _cache(*made) -> Path:
    """Where compiled kernels are kept: apart, by names for how they are made, which Taichi does not tell apart.

    If nothing can be written there, a warning and a temporary folder.

    Taichi itself ends such a process with a segmentation fault, cache asked for or not.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = Path(home, "taichi", "-".join(("ticache", *filter(None, made))))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        said = f"{cache} cannot be written ({error.strerror}): every process compiles its kernels again"
        warnings.warn(said, RuntimeWarning, stacklevel=3)
        return Path(tempfile.mkdtemp(prefix="ticache-"))


@contextlib.contextmanager
def compiled_quickly():
    """Kernels first called inside are compiled without Taichi's own optimisations; LLVM's remain.

    They gain nothing where a kernel is straight code or loops over lanes, and take most of the time to compile: the
    rope's rollout 18 s instead of 2.6, for 3 %. Newton's loop with one lane is a third faster for them. The results are
    the same, to round-off.
    """
    config = ti.lang.impl.get_runtime().prog.config()
    kept = config.advanced_optimization, config.cfg_optimization
    config.advanced_optimization = config.cfg_optimization = False
    try:
        yield
    finally:
        config.advanced_optimization, config.cfg_optimization = kept


def started() -> bool:
    return ti.lang.impl.get_runtime().prog is not None


def torch_device() -> torch.device:
    """The torch device on which the simulator's tensors live."""
    _require()
    return torch.device("cuda" if ti.cfg.arch == ti.cuda else "cpu")


def dtype() -> torch.dtype:
    """The dtype of the simulator's tensors."""
    _require()
    return torch.float64 if ti.cfg.default_fp == ti.f64 else torch.float32


def versions() -> dict[str, str]:
    """Of Python and of the packages whose arithmetic a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "taichi": ".".join(map(str, ti.__version__)),
        "numpy": np.__version__,
    }


def _require():
    if not started():
        raise RuntimeError("taichi_sim is not started: call taichi_sim.init() first")


def zeros(*shape: int) -> torch.Tensor:
    """A tensor of the physics' kind. Where it can be had, a large one of a CPU lies in pages of 2 MiB.

    Linux clears a page when it is first touched: 4 KiB take it 1.5 µs, more than it takes to compute what a Jacobian
    has there.
    """
    size = math.prod(shape) * dtype().itemsize
    if torch_device().type != "cpu" or size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype(), device=torch_device())
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype()).view(shape)
