"""Files that survive a crash, and reading files that a stranger may have made.

Nothing read here can run code: tensors are safetensors, the rest is JSON, and there is no other way in.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from taichi_sim.errors import InputError, expect

LARGEST_HEADER = LARGEST_JSON = 2**20  # bytes; ours have a few thousand


@contextlib.contextmanager
def replaced(path: Path):
    """A new file to write, which takes the place of `path` so that after a crash, or on a full disk, that is the old
    or the new one, whole.

    Raises `InputError` where that can't be done.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: a name with a zero byte
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: expected a place for a file, got {said!r}") from error


def _to_disk(path: Path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes):
    """Replace `path` by `data`, see `replaced`."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value):
    write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict):
    """Tensors and a dictionary that JSON can hold."""
    with replaced(path) as temporary:
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        save_file(tensors, temporary, {"state": json.dumps(metadata)})


def read_json(path: Path) -> dict:
    """The object in a JSON file of at most a megabyte. Raises `InputError` naming the file."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        expect(size <= LARGEST_JSON, str(path), f"at most {LARGEST_JSON:,} bytes", f"{size:,}")
        try:
            value = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: expected JSON, got something else ({error})") from error
    expect(isinstance(value, dict), str(path), "a JSON object", type(value).__name__)
    return value


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """What `write_tensors` wrote. Raises `InputError` naming the file, having read no more of it than it holds."""
    with _opened(path) as file:
        header = int.from_bytes(file.read(8), "little")
        expect(header <= LARGEST_HEADER, str(path), f"a header of at most {LARGEST_HEADER:,} bytes", f"{header:,}")
        try:
            # by descriptor: what was looked at is what is read
            with safe_open(f"/proc/self/fd/{file.fileno()}", "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
                state = json.loads((opened.metadata() or {})["state"])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, RecursionError, OSError) as error:
            raise InputError(f"{path}: expected tensors in safetensors' format and their state, got {error}") from error
    expect(isinstance(state, dict), str(path), "a state that is a JSON object", type(state).__name__)
    return tensors, state


def load_module(module: torch.nn.Module, name: str, tensors: dict[str, torch.Tensor]):
    """Give `module` the tensors called NAME/…; they must have its shapes and dtypes, and hold finite numbers."""
    own, found = module.state_dict(), {}
    for key, like in own.items():
        tensor = tensors.get(f"{name}/{key}")
        expect(tensor is not None, f"{name}/{key}", "a tensor in the checkpoint", "none")
        check_tensor(f"{name}/{key}", tensor, like)
        found[key] = tensor
    module.load_state_dict(found)


def check_tensor(name: str, tensor: torch.Tensor, like: torch.Tensor):
    """Raise `InputError` where a tensor from a file has not the shape and dtype of `like` or not finite numbers."""
    form = f"{tuple(like.shape)} {like.dtype}"
    expect(
        tensor.shape == like.shape and tensor.dtype == like.dtype, name, form, f"{tuple(tensor.shape)} {tensor.dtype}"
    )
    expect(bool(torch.isfinite(tensor).all()), name, "finite numbers", "others")


def integer(state: dict, name: str, least: int = 0) -> int:
    """An integer in the state of a checkpoint."""
    value = state.get(name)
    expect(type(value) is int and value >= least, name, f"an integer >= {least} in the checkpoint", repr(value))
    return value


def number(state: dict, name: str) -> float:
    """A finite number >= 0 in the state of a checkpoint."""
    value = state.get(name)
    good = type(value) in (int, float) and math.isfinite(value) and value >= 0
    expect(good, name, "a finite number >= 0 in the checkpoint", repr(value))
    return float(value)


@contextlib.contextmanager
def _opened(path: Path):
    """A regular file, no link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be read, got {error.strerror!r}") from error
    try:
        expect(stat.S_ISREG(os.fstat(descriptor).st_mode), str(path), "a regular file", "another kind")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)
