"""Images of pictures without a window: by Vulkan in a process of its own, else by matplotlib."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from pathlib import Path

import numpy as np

from taichi_sim.errors import InputError, expect

from .camera import Camera
from .picture import Picture
from .plain import PlainCanvas

KINDS = ("auto", "vulkan", "plain")
CHUNK = 600  # frames a process draws: each leaves a quarter of a MiB behind
PATIENCE = 120.0  # s until a process is given up


class NoVulkan(InputError):
    """Says why pictures cannot be drawn by Vulkan here."""


def spawn(module: str, folder: str):
    """A Python process that runs viz.`module` with one end of a pipe, in `folder`; the process and the other end."""
    here, there = Pipe()
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", f"viz.{module}", str(there.fileno())],
        cwd=folder,
        pass_fds=(there.fileno(),),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the parent, which closes the pipe
    )
    there.close()
    return process, here


class VulkanRenderer:
    """Draws in a process that is replaced every `CHUNK` frames. Raises `NoVulkan` if it does not start, or dies."""

    def __init__(self, size: tuple[int, int]):
        self.size, self._process = size, None
        self._start()

    def draw(self, picture: Picture, camera: Camera) -> np.ndarray:
        """(height, width, 3) uint8"""
        if self._drawn >= CHUNK:
            self.close()
            self._start()
        self._drawn += 1
        try:
            self._pipe.send((picture, camera))
            frame = np.frombuffer(self._answer(self._pipe.recv_bytes), np.uint8)
        except (EOFError, OSError) as error:
            raise NoVulkan(f"the drawing process ended with code {self._process.wait()}") from error
        return frame.reshape(self.size[1], self.size[0], 3)

    def close(self):
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.wait()
            self._process = None
            self._folder.cleanup()

    def _start(self):
        self._drawn = 0
        self._folder = tempfile.TemporaryDirectory(prefix="pods-")  # ImGui leaves its layout where it runs
        self._process, self._pipe = spawn("worker", self._folder.name)
        try:
            self._pipe.send(self.size)
            said = self._answer(self._pipe.recv)
        except (EOFError, OSError):
            said = f"the drawing process ended with code {self._process.wait()}"
        if said != "ready":
            self.close()
            raise NoVulkan(said)

    def _answer(self, receive):
        if not self._pipe.poll(PATIENCE):
            raise EOFError
        return receive()


class PlainRenderer:
    """Draws with matplotlib, in this process."""

    def __init__(self, size: tuple[int, int]):
        self.size, self._canvas = size, PlainCanvas(size)

    def draw(self, picture: Picture, camera: Camera) -> np.ndarray:
        """(height, width, 3) uint8"""
        self._canvas.draw(picture, camera)
        return self._canvas.image()

    def close(self):
        pass


class Renderer:
    """Vulkan where it works, else matplotlib, which `notice(line)` is told once.

    kind: "auto"; "vulkan": raises `NoVulkan` instead of falling back; "plain"
    """

    def __init__(self, size: tuple[int, int], kind: str = "auto", notice=print):
        expect(kind in KINDS, "renderer", f"one of {', '.join(KINDS)}", repr(kind))
        self.size, self._kind, self._notice = size, kind, notice
        self._inner = self._try(lambda: VulkanRenderer(size)) if kind != "plain" else PlainRenderer(size)

    @property
    def plain(self) -> bool:
        return isinstance(self._inner, PlainRenderer)

    def draw(self, picture: Picture, camera: Camera) -> np.ndarray:
        """(height, width, 3) uint8"""
        image = self._try(lambda: self._inner.draw(picture, camera))
        if isinstance(image, PlainRenderer):
            self._inner = image
            image = self._inner.draw(picture, camera)
        return image

    def close(self):
        self._inner.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _try(self, act):
        """What `act` returns, or a plain renderer if Vulkan fails."""
        try:
            return act()
        except NoVulkan as error:
            if self._kind == "vulkan":
                raise NoVulkan(f"renderer: expected a working Vulkan, got {error}") from error
            self._notice(f"no Vulkan ({error}): drawn by matplotlib, without lights")
            return PlainRenderer(self.size)
