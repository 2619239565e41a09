"""The interactive viewer: a session, a camera and a window, and what each key does."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from taichi_sim.errors import InputError, expect
from tasks import TEST_STATES

from . import stage
from .encoder import check
from .recorder import Recorder
from .renderer import spawn
from .scene import PERFORMERS
from .session import SPEEDS, Session

PATIENCE = 120.0  # s for the window to open
TRAIL = 0.8  # s
RATE = 60.0  # pictures a second at most
PANEL = 0.36  # of the window's width
WHITE = (1.0, 1.0, 1.0)
TURN, NEARER = 3.0, 1.05  # rad across the window, zoom per key
HELP = (
    "space  pause        t  b  step, back",
    "r  new start        n  next test state",
    "p  policy on/off    y  u  slower, faster",
    "arrows q e  drive   m  which handle, all",
    "f  g  push          i j k l  move target",
    "c  follow   o  trails   v  record",
    "left drag  orbit    right drag, z x  zoom",
    "h  this list        escape  quit",
)
DRIVE = {"left": (0, -1), "right": (0, 1), "down": (1, -1), "up": (1, 1), "q": (2, -1), "e": (2, 1)}
DRIVE |= {"a": (0, -1), "d": (0, 1), "s": (1, -1), "w": (1, 1)}
TARGET = {"j": (0, -1), "l": (0, 1), "k": (1, -1), "i": (1, 1)}


class Window:
    """A GGUI window in a process of its own. Raises `InputError` where none can be opened."""

    def __init__(self, size: tuple[int, int]):
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        expect(bool(display), "window", "a display (DISPLAY is set)", "none; `pods video` needs no display")
        self._folder = tempfile.TemporaryDirectory(prefix="pods-window-")  # ImGui leaves its layout where it runs
        self._process, self._pipe = spawn("window", self._folder.name)
        try:
            self._pipe.send(size)
            opened = self._pipe.poll(PATIENCE) and self._pipe.recv() == "ready"
        except (EOFError, OSError):
            opened = False
        if not opened:
            code = self._process.poll()
            self.close()
            found = f"a window process that ended with code {code}" if code is not None else "no answer"
            raise InputError(f"window: expected a display and a Vulkan driver, got {found}; see `pods doctor`")

    def show(self, picture, camera, panels) -> list[tuple]:
        """Draw, and return the events since the last time, see `viz.window`."""
        try:
            self._pipe.send((picture, camera, panels))
            return self._pipe.recv()
        except (EOFError, OSError):
            return [("close",)]

    def close(self):
        self._pipe.close()
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


class Viewer:
    """Turns events into changes of the session and the camera, and both into what the window shows."""

    def __init__(self, session: Session, size: tuple[int, int], folder: str | Path = "."):
        self.session, self.size, self.folder = session, size, Path(folder)
        self.scene = stage.scene(session.task, session.performer)
        self.camera = self._home = stage.camera(session.task, self.scene, size[0] / size[1], margin=PANEL)
        self.help, self.follow, self.handle, self.notice = True, False, 0, ""
        self.open, self._recorder = True, None
        self._driving = False

    def picture(self):
        s = self.session
        row = s.history[s.shown]
        trails = [s.trail(TRAIL)] if s.trails else []
        return self.scene.picture(row.x, row.p, trails, s.target)

    def panels(self) -> list[tuple]:
        """(title, place in shares of the window, widgets) of each panel, see `viz.window`."""
        panels = [("pods", (0.0, 0.0, PANEL, 0.62), self._controls())]
        if self.help:
            panels.append(("keys", (0.0, 0.72, PANEL, 0.28), [("text", line, WHITE) for line in HELP]))
        return panels

    def _controls(self) -> list[tuple]:
        s = self.session
        rows = [("text", f"{s.task.name}, {s.start}, {s.time:.2f} s of {s.horizon:.2f} s", WHITE)]
        for n, ((name, _), m) in enumerate(zip(s.performers, s.metrics(), strict=True)):
            text = f"{name}: return {-m['cost']:.3f}  KE {m['kinetic']:.1e} J  distance {100 * m['distance']:.1f} cm"
            if m["failed"]:
                text += f"  {m['failed']} failed"
            rows.append(("text", text, PERFORMERS[n % len(PERFORMERS)]))
        if self.notice:
            rows.append(("text", self.notice, (1.0, 0.8, 0.3)))
        rows += [
            ("check", "playing", s.playing),
            ("check", "policy", s.policy_on),
            ("check", "trails", s.trails),
            ("check", "follow", self.follow),
            ("slider", "speed", s.speed, SPEEDS[0], SPEEDS[-1]),
            ("slider", "row", float(s.shown), 0.0, float(max(1, s.length))),
            ("slider", "test state", float(s.state), 0.0, float(TEST_STATES - s.count)),
        ]
        limit = float(s.task.limit)
        rows += [("slider", f"hand {n}", float(a), -limit, limit) for n, a in enumerate(s.hand) if len(s.hand) <= 4]
        rows += [
            ("button", name)
            for name in ("new start", "next test state", "stop recording" if self._recorder else "record")
        ]
        rows.append(("check", "keys", self.help))
        return rows

    def handle_event(self, event: tuple):
        kind, *value = event
        act = {"press": self._press, "hold": self._hold, "change": self._change}.get(kind)
        if act is not None:
            act(*value)
        elif kind == "drag":
            self.camera = self.camera.orbit(-TURN * value[0], -TURN * value[1])
        elif kind == "slide":
            self.camera = self.camera.zoom(1.0 - 2.0 * value[1])
        elif kind == "close":
            self.open = False

    def run(self, window: Window):
        """Until the window is closed."""
        last = time.monotonic()
        try:
            while self.open:
                now = time.monotonic()
                self.session.elapse(now - last)
                last = now
                self._look()
                picture = self.picture()
                for event in window.show(picture, self.camera, self.panels()):
                    self.handle_event(event)
                self._film(picture, now)
                time.sleep(max(0.0, 1.0 / RATE - (time.monotonic() - now)))
        finally:
            self.stop_recording()
            window.close()

    # Events

    def _press(self, key: str):
        s = self.session
        if key == "space":
            s.playing, s.scrub = not s.playing or s.scrub is not None, None
        elif key in "tb":
            s.playing = False
            if key == "b" or s.shown < s.length:
                s.scrub = max(0, s.shown + (1 if key == "t" else -1))
            else:
                s.scrub = None
                s.step()
        elif key == "r":
            s.reset()
        elif key == "n":
            s.next_state()
        elif key == "p":
            s.policy_on = not s.policy_on
        elif key in "yu":
            s.change_speed(2.0 if key == "u" else 0.5)
        elif key in "fg":
            s.push(np.eye(s.task.system.dim)[0] * (1 if key == "f" else -1))
        elif key in TARGET:
            axis, sign = TARGET[key]
            if axis < s.task.system.dim:
                s.move_target(sign * np.eye(s.task.system.dim)[axis])
        elif key == "c":
            self._change("follow", not self.follow)
        elif key == "o":
            s.trails = not s.trails
        elif key == "v":
            self.stop_recording() if self._recorder else self.record()
        elif key in "zx":
            self.camera = self.camera.zoom(NEARER if key == "z" else 1 / NEARER)
        elif key == "h":
            self.help = not self.help
        elif key == "m":
            self.handle = (self.handle + 1) % (s.task.system.handles + 1)
            self.notice = f"keys drive handle {self.handle}" if self.handle else "keys drive all handles"
        elif key == "escape":
            self.open = False

    def _hold(self, keys: list[str]):
        """Drive the chosen handle, or all, for as long as keys are held; the policy takes over after."""
        s, held = self.session.task.system, [DRIVE[key] for key in keys if key in DRIVE]
        if not held and not self._driving:
            return  # what the sliders say stands
        self._driving = bool(held)
        axes = s.axes.reshape(s.handles, s.dim, -1)
        chosen = range(s.handles) if self.handle == 0 else [min(self.handle, s.handles) - 1]
        hand = np.zeros(s.actions)
        for axis, sign in held:
            for h in chosen:
                if axis < s.dim:
                    hand += sign * self.session.task.limit * axes[h, axis]
        self.session.hand = hand

    def _change(self, name: str, value):
        s = self.session
        if name == "playing":
            s.playing, s.scrub = bool(value), None
        elif name == "policy":
            s.policy_on = bool(value)
        elif name == "trails":
            s.trails = bool(value)
        elif name == "follow":
            self.follow = bool(value)
            if not self.follow:
                self.camera = self.camera.at(self._home.target)
        elif name == "speed":
            s.speed = float(value)
        elif name == "row":
            s.scrub = round(value)
        elif name == "test state":
            if round(value) != s.state:
                s.reset(round(value))
        elif name.startswith("hand "):
            s.hand = np.where(np.arange(len(s.hand)) == int(name[5:]), value, s.hand)
        elif name == "new start":
            s.reset()
        elif name == "next test state":
            s.next_state()
        elif name == "record":
            self.record()
        elif name == "stop recording":
            self.stop_recording()
        elif name == "keys":
            self.help = bool(value)

    def _look(self):
        if self.follow:
            row = self.session.history[self.session.shown]
            self.camera = self.camera.at(self.scene.middle(row.x))

    # Recording

    def record(self):
        """Film what is shown into the next free FOLDER/recording-N.mp4."""
        n = 1
        while (path := self.folder / f"recording-{n}.mp4").exists():
            n += 1
        try:
            check(path, self.size)
            self._recorder = Recorder(path, self.size)
            self.notice = f"recording to {path}"
        except InputError as error:
            self.notice = str(error)

    def _film(self, picture, now: float):
        if self._recorder is not None:
            try:
                self._recorder.take(picture, self.camera, now, self.session.task.name, f"{self.session.time:.2f} s")
            except InputError as error:
                self._recorder.close(error)
                self._recorder, self.notice = None, str(error)

    def stop_recording(self):
        if self._recorder is not None:
            self._recorder.close()
            self.notice = f"recorded {self._recorder.path}"
            self._recorder = None
