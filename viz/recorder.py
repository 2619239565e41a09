"""Recording what a window shows."""

from __future__ import annotations

from pathlib import Path

from .encoder import Encoder
from .overlay import annotated
from .renderer import Renderer

FPS = 30.0


class Recorder:
    """Draws what the window shows a second time, in a process of its own, and encodes it."""

    def __init__(self, path: Path, size: tuple[int, int]):
        self.path = path
        self._renderer = Renderer(size, notice=lambda line: None)
        self._encoder = Encoder(path, size, FPS)
        self._begun, self._frames = None, 0

    def take(self, picture, camera, now: float, title: str, corner: str):
        """Write the picture as often as the time since the first says."""
        self._begun = now if self._begun is None else self._begun
        due = int((now - self._begun) * FPS) + 1 - self._frames
        if due > 0:
            image = annotated(self._renderer.draw(picture, camera), title, corner, [])
            for _ in range(due):
                self._encoder.write(image)
            self._frames += due

    def close(self, failure: Exception | None = None):
        """Keep the file, or after a failure nothing."""
        self._encoder.__exit__(None if failure is None else type(failure))
        self._renderer.close()
