"""A run is a folder: config.json, log.csv, checkpoints/, evaluation.json and figures."""

from __future__ import annotations

import csv
import fcntl
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import torch

from taichi_sim import runtime
from taichi_sim.errors import InputError, expect

from .files import read_json, read_tensors, write, write_json, write_tensors

VERSION = 1  # of the folder's layout
KEEP = 2  # checkpoints


def environment() -> dict:
    """What must be the same for a run to repeat bit for bit, and where it ran."""
    device = runtime.torch_device()
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "precision": str(runtime.dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **runtime.versions(),
        **{name: importlib.metadata.version(name) for name in ("pods", "stable-baselines3", "gymnasium")},
    }


def _processor() -> str:
    """The CPU's name (Linux), with the numbers that tell generations of one name apart, or its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        text = ""
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    name = about.get("model name") or platform.machine()
    if "cpu family" not in about or "model" not in about:
        return name
    return f"{name} (family {about['cpu family']}, model {about['model']})"


class Run:
    """One run folder; `Run.create` makes a new one, `Run.open` an existing one."""

    def __init__(self, path: Path, config: dict):
        self.path, self.config = path, config
        self._log = self._lock = None

    @staticmethod
    def create(path: str | Path, config: dict) -> Run:
        """A new folder at `path`, which must be empty or not exist. `config` is written to config.json."""
        path = Path(path)
        if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"run: expected a new folder, got {path}, which is not empty")
        config = json.loads(json.dumps({"version": VERSION, **config}))  # as `open` will find it
        write_json(path / "config.json", config)
        return Run(path, config)

    @staticmethod
    def open(path: str | Path) -> Run:
        path = Path(path)
        expect(os.path.exists(path / "config.json"), "run", "a run folder with a config.json", path)
        config = read_json(path / "config.json")
        found, wrote = config.get("version"), _versions(config)
        expect(found == VERSION, f"{path}/config.json", f"layout version {VERSION}", f"{found!r}, written by {wrote}")
        return Run(path, config)

    def lock(self):
        """Hold the folder until this process ends. Raises `InputError` where another process holds it."""
        if self._lock is not None:
            return
        self._lock = open(self.path / ".lock", "a")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"run: expected a folder that no other process trains in, got {self.path}") from None

    # Log

    def log(self, row: dict):
        """Append a row to log.csv and flush it; the first row sets the columns. Raises `InputError` on a full disk."""
        try:
            if self._log is None:
                self._log = open(self.path / "log.csv", "a", newline="")
                if self._log.tell() == 0:
                    csv.writer(self._log).writerow(row)
            csv.writer(self._log).writerow(row.values())
            self._log.flush()
        except OSError as error:
            raise InputError(f"{self.path}/log.csv: expected room for a row, got {error.strerror!r}") from error

    def rows(self) -> list[dict]:
        """log.csv as dictionaries of numbers; a torn last line is left out."""
        try:
            text = (self.path / "log.csv").read_text()
        except FileNotFoundError:
            return []
        lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        return [dict(zip(lines[0], map(float, line), strict=True)) for line in lines[1:] if len(line) == len(lines[0])]

    def rewind(self, epochs: int):
        """Drop the log's rows from `epochs` on, so that a resumed run never has a row twice."""
        path = self.path / "log.csv"
        if path.exists():
            text = path.read_text()
            lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
            write(path, "".join(lines[: 1 + epochs]).encode())

    # Checkpoints

    def save(self, epoch: int, tensors: dict[str, torch.Tensor], state: dict):
        """Write the checkpoint after `epoch` epochs, one file, and drop all but the last two."""
        path = self.path / "checkpoints" / f"{epoch:06d}.safetensors"
        write_tensors(path, tensors, {"version": VERSION, "epoch": epoch, **state})
        for old in self.checkpoints()[:-KEEP]:
            old.unlink()

    def checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("[0-9]*.safetensors"))

    @property
    def saved(self) -> int:
        """Epochs that the newest checkpoint holds; log.csv may have a row more."""
        return int(self.checkpoints()[-1].stem) if self.checkpoints() else 0

    def load(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Tensors and state of the newest checkpoint that can be read."""
        reason = "none"
        for path in reversed(self.checkpoints()):
            try:
                return read_tensors(path)
            except InputError as error:
                reason = error
        raise InputError(f"run: expected a readable checkpoint in {self.path}/checkpoints, got {reason}")


def _versions(config: dict) -> str:
    """The packages that wrote a folder, as far as it says."""
    where = config.get("environment")
    known = where if isinstance(where, dict) else {}
    said = [f"{name} {known[name]}" for name in ("pods", "torch", "taichi") if name in known]
    return ", ".join(said) or "an unknown version"
