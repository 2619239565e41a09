"""The real window on a virtual screen."""

import os
import shutil
import signal
import subprocess
import time

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import ImageGrab
from processes import ENVIRONMENT, PODS, children, pods, refused
from watched import help_keys

from viz import viewer as viewing
from viz.camera import Camera
from viz.picture import Balls, Picture, Surface
from viz.scene import HANDLE, PERFORMERS
from viz.viewer import Window


@pytest.fixture(scope="module")
def screen(vulkan):
    """The name of a display with nothing on it."""
    missing = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' or '.join(missing)}; they come with the Debian packages xvfb xdotool")
    here, there = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-noreset", "-displayfd", str(there), "-screen", "0", "1024x640x24"],
        pass_fds=(there,),
        stderr=subprocess.DEVNULL,
    )
    os.close(there)
    with os.fdopen(here) as said:
        yield f":{int(said.readline())}"
    server.terminate()
    server.wait()


ORIGIN, SIZE = np.array([100, 100]), (640, 360)  # where Taichi puts windows, and the size of the tests'
KEYSYMS = {"left": "Left", "right": "Right", "up": "Up", "down": "Down", "escape": "Escape"}


def xdotool(screen, *arguments):
    subprocess.run(["xdotool", *map(str, arguments)], check=True, env=os.environ | {"DISPLAY": screen}, timeout=20)


def point(screen, x, y):
    xdotool(screen, "mousemove", *(ORIGIN + (x, y)))


@pytest.fixture
def window(screen, monkeypatch, tmp_path):
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.chdir(tmp_path)
    point(screen, 500, 200)
    made = Window(SIZE)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == [] and children("viz.window") == set()


CORNERS = np.array([[-0.01, 5.0, -3.0], [0.01, 5.0, -3.0], [0.0, 5.1, -3.0]])
FLOOR = Surface(CORNERS, np.array([[0, 1, 2]]), np.ones((3, 3)))
BALL = Picture((FLOOR,), (), (Balls(np.zeros((1, 3)), 0.1, np.array(PERFORMERS[:1])),), (), (), (), ())


def shown(window, *widgets, pictures=4):
    """What happened in the next pictures, with a panel top left."""
    panels = [("pods", (0.0, 0.0, 0.36, 0.62), list(widgets))]
    events = []
    for _ in range(pictures):
        events += window.show(BALL, Camera((0.0, 0.0, 0.0), 2.0), panels)
    return events


def test_every_key_of_the_help_arrives(window, screen):
    shown(window)
    for key in [*help_keys(), "a", "s", "d", "w"]:
        name = KEYSYMS.get(key, key)
        xdotool(screen, "keydown", name)
        down = shown(window)
        xdotool(screen, "keyup", name)
        up = shown(window)
        assert ("press", key) in down and ("hold", [key]) in down, key
        assert not [event for event in up if event[0] == "press"] and up[-1] == ("hold", []), key


def test_the_mouse_drags_beside_the_panel_and_not_on_it(window, screen):
    shown(window)
    for button, name in ((1, "drag"), (3, "slide")):
        for x, y, expected in ((400, 250, True), (100, 150, False)):
            point(screen, x, y)
            shown(window)
            xdotool(screen, "mousedown", button)
            shown(window)
            point(screen, x + 32, y - 36)
            events = [event for event in shown(window) if event[0] in ("drag", "slide")]
            xdotool(screen, "mouseup", button)
            shown(window)
            if expected:
                assert {event[0] for event in events} == {name}
                assert sum(e[1] for e in events) == pytest.approx(32 / 640, abs=2e-3)
                assert sum(e[2] for e in events) == pytest.approx(36 / 360, abs=3e-3)
            else:
                assert events == []


def test_widgets_can_be_clicked(window, screen):
    """Wherever in the panel they are."""
    rows = [("text", "hello", (1.0, 1.0, 1.0)), ("check", "box", True), ("slider", "bar", 1.0, 0.0, 4.0)]
    rows.append(("button", "go"))
    shown(window, *rows)
    found = {}
    for y in range(30, 130, 4):
        point(screen, 20, y)
        shown(window, *rows)
        xdotool(screen, "click", 1)
        found |= {name: value for kind, name, value in (e for e in shown(window, *rows) if e[0] == "change")}
    assert found.pop("bar") < 1.0 and found == {"box": False, "go": True}


def test_a_window_whose_process_is_killed_is_closed(window):
    shown(window)
    (pid,) = children("viz.window")
    os.kill(pid, signal.SIGKILL)
    assert shown(window)[-1] == ("close",)


def test_a_window_that_is_taken_away_is_closed(window, screen):
    shown(window)
    xdotool(screen, "search", "--name", "pods", "windowkill")
    assert shown(window)[-1] == ("close",)


def grab(screen):
    """The part of the window beside its panels (height, width, 3)."""
    image = np.asarray(ImageGrab.grab(xdisplay=screen).convert("RGB")).astype(int)
    left = ORIGIN[0] + int(viewing.PANEL * SIZE[0]) + 4
    return image[ORIGIN[1] : ORIGIN[1] + SIZE[1], left : ORIGIN[0] + SIZE[0]]


def handles(image):
    """x of the middle of what has the handles' colour, in any light."""
    dark = (image.max(-1) < 255 * max(HANDLE) + 8) & (np.ptp(image, axis=-1) < 12)
    return np.argwhere(dark)[:, 1].mean()


def wait_for(condition, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.05)
    return found


def still(screen):
    """Whether nothing moves for longer than a slow machine takes for a picture."""
    first = grab(screen)
    for _ in range(4):
        time.sleep(0.3)
        if not np.array_equal(first, grab(screen)):
            return False
    return True


def test_a_swinging_pendulum_is_watched_stopped_driven_and_recorded(screen, tmp_path):
    point(screen, 500, 200)
    viewer = subprocess.Popen(
        [*PODS, "view", "pendulum2d-stop", "--size", "640x360", "--device", "cpu"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"DISPLAY": screen},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: viewer.poll() is not None or grab(screen).mean() > 150, "window")
        assert viewer.poll() is None, viewer.communicate()
        wait_for(lambda: not still(screen), "motion")
        xdotool(screen, "key", "space")
        wait_for(lambda: still(screen), "pause")
        paused = grab(screen)
        xdotool(screen, "key", "r")
        wait_for(lambda: not np.array_equal(grab(screen), paused), "new start")
        wait_for(lambda: still(screen), "pause")
        xdotool(screen, "key", "space")
        wait_for(lambda: not still(screen), "motion")
        before = handles(grab(screen))
        xdotool(screen, "keydown", "Left")
        wait_for(lambda: handles(grab(screen)) < before - 15, "drive to the left")
        xdotool(screen, "keyup", "Left")
        xdotool(screen, "key", "v")
        wait_for(lambda: children("libx264", viewer.pid), "encoder")
        time.sleep(3.0)
        xdotool(screen, "key", "v")
        film = tmp_path / "recording-1.mp4"
        wait_for(film.exists, "recording")
        xdotool(screen, "key", "Escape")
        out, err = viewer.communicate(timeout=60)
    finally:
        viewer.kill()
        xdotool(screen, "keyup", "Left")
    assert (viewer.returncode, out, err) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["recording-1.mp4"]
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(film))
    assert count > 5 and seconds == pytest.approx(count / 30, abs=0.05)


@pytest.mark.parametrize("display", [None, ":4711"])
def test_without_a_display_there_is_one_line(tmp_path, display):
    there = {} if display is None else {"DISPLAY": display}
    done = pods("view", "pendulum2d-stop", cwd=tmp_path, without=("DISPLAY", "WAYLAND_DISPLAY"), **there)
    refused(done.returncode, done.stdout, done.stderr, "window: expected a display")
    assert list(tmp_path.iterdir()) == []
