"""What each key and widget does to the live simulation."""

import os
import signal

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from processes import children
from watched import help_keys, moved

import taichi_sim
from taichi_sim import Builder
from tasks import Quadratic, Shake, Task
from viz import session as live
from viz import viewer as viewing
from viz.scene import PERFORMERS, lifted
from viz.session import Session
from viz.viewer import HELP, Viewer
from viz.window import KEYS


@pytest.fixture(scope="module")
def hammock():
    """A load between two hands that are free in space."""
    taichi_sim.init("cpu")
    b = Builder("hammock", 3)
    load = b.point((0.0, 0.0, -0.3), mass=0.1)
    for x in (-0.2, 0.2):
        b.spring(b.handle((x, 0.0, 0.0), axes="xyz"), load, stiffness=200.0, damping=0.5)
    return Task("hammock", b.build(), 0.02, 30, 0.6, Quadratic(1.0, 1.0, 0.2, 0.05), Shake())


@pytest.fixture
def viewer(pendulum, hammock, tmp_path):
    """viewer(task): of two rollouts of a feeble policy, four steps old, that records into a folder of its own."""
    made = []

    def make(name="hammock"):
        known = {"hammock": hammock, "pendulum": pendulum}[name]
        s = Session(known, [("policy", lambda o: 0.1 - 0.2 * o[:, : known.system.actions])], count=2)
        for _ in range(4):
            s.step()
        made.append(Viewer(s, (320, 180), tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.stop_recording()


DRIVES = ("left", "right", "up", "down", "q", "e")


def press(viewer, key):
    """As the window reports a key that goes down: pressed, and held at the next picture."""
    viewer.handle_event(("press", key))
    viewer.handle_event(("hold", [key]))


def snapshot(viewer):
    s = viewer.session
    now = (s.playing, s.scrub, s.length, s.start, s.policy_on, s.trails, s.speed, s.hand.tolist(), s.target.tolist())
    mine = (viewer.camera, viewer.help, viewer.follow, viewer.handle, viewer.open, viewer.notice)
    return now + mine + (s._state.v.tolist(),)


def test_the_help_names_all_keys():
    assert sorted(help_keys()) == sorted(["space", "escape", *DRIVES, *"tbrnpyumfgijklcovzxh"])


@pytest.mark.parametrize("key", help_keys())
def test_each_key_of_the_help_does_something_and_can_be_pressed(viewer, key):
    one = viewer()
    before = snapshot(one)
    press(one, key)
    assert snapshot(one) != before
    assert key in KEYS or key in ("space", "escape", "left", "right", "up", "down")


def test_a_key_that_means_nothing_does_nothing(viewer):
    one = viewer()
    before = snapshot(one)
    for key in ("1", "[", "tab", "shift"):
        press(one, key)
    assert snapshot(one) == before


def test_space_stops_and_goes_on_and_comes_back_from_the_past(viewer):
    s = (one := viewer("pendulum")).session
    press(one, "space")
    assert not s.playing
    press(one, "space")
    assert s.playing
    press(one, "space")
    press(one, "b")
    press(one, "space")
    assert s.playing and s.scrub is None


def test_t_steps_on_and_b_steps_back(viewer):
    s = (one := viewer("pendulum")).session
    press(one, "t")
    assert not s.playing and (s.length, s.shown) == (5, 5)
    for shown in (4, 3):
        press(one, "b")
        assert (s.length, s.shown) == (5, shown)
    for length, shown in ((5, 4), (5, 5), (6, 6)):
        press(one, "t")
        assert (s.length, s.shown) == (length, shown)
    for _ in range(9):
        press(one, "b")
    assert s.shown == 0


def test_r_n_and_p(viewer):
    s = (one := viewer("pendulum")).session
    press(one, "r")
    assert s.length == 0 and s.start == "new state 1"
    press(one, "n")
    assert s.start == "test state 2"
    press(one, "p")
    s.step()
    assert not s.policy_on and moved(s) == pytest.approx([0.0], abs=1e-15)
    press(one, "p")
    assert s.policy_on


def test_u_is_faster_and_y_slower(viewer):
    s = (one := viewer("pendulum")).session
    press(one, "u")
    assert s.speed == 2.0
    press(one, "y")
    press(one, "y")
    assert s.speed == 0.5


def test_f_and_g_push_along_x_to_either_side(viewer):
    for key, sign in (("f", 1), ("g", -1)):
        s = (one := viewer()).session
        before = s.history[-1].v.copy()
        press(one, key)
        s.step()
        kick = s.history[-1].v - before
        assert (sign * kick[..., 0] > 0.25 * live.PUSH).all() and (np.abs(kick[..., :1]) >= np.abs(kick)).all()


@pytest.mark.parametrize("key, move", [("l", (1, 0, 0)), ("j", (-1, 0, 0)), ("i", (0, 1, 0)), ("k", (0, -1, 0))])
def test_i_j_k_l_move_the_target_and_its_crosses(viewer, key, move):
    one = viewer()
    before = one.picture()
    press(one, key)
    assert one.session.target.tolist() == [live.REACH * m for m in move]
    shifts = [b.ends - a.ends for a, b in zip(before.lines, one.picture().lines, strict=True)]
    assert sum(np.allclose(y, np.multiply(live.REACH, move)) and np.any(y) for y in shifts) == 1


@pytest.mark.parametrize("key, axis, sign", [
    ("left", 0, -1), ("right", 0, 1), ("down", 1, -1), ("up", 1, 1), ("q", 2, -1), ("e", 2, 1),
    ("a", 0, -1), ("d", 0, 1), ("s", 1, -1), ("w", 1, 1),
])  # fmt: skip
def test_a_held_key_drives_until_it_is_released(viewer, key, axis, sign):
    s = (one := viewer()).session
    limit = s.task.limit
    one.handle_event(("hold", [key]))
    s.step()
    driven = moved(s).reshape(2, 3)
    assert np.allclose(driven[:, axis], sign * limit, atol=1e-12)
    one.handle_event(("hold", []))
    assert not s.hand.any()
    s.step()
    assert (np.abs(moved(s).reshape(2, 3)[:, axis]) < limit * 0.999).all()


def test_two_held_keys_drive_both_ways(viewer):
    s = (one := viewer()).session
    one.handle_event(("hold", ["left", "e", "p"]))
    assert np.array_equal(s.hand.reshape(2, 3), np.tile([-s.task.limit, 0.0, s.task.limit], (2, 1)))


def test_an_axis_without_a_handle_on_it_is_not_driven(viewer):
    s = (one := viewer("pendulum")).session
    one.handle_event(("hold", ["up"]))
    assert not s.hand.any()
    one.handle_event(("hold", ["e", "right"]))
    assert s.hand.tolist() == [s.task.limit]


def test_m_chooses_one_handle_after_the_other_and_then_all(viewer):
    s = (one := viewer()).session
    for chosen in ([0], [1], [0, 1]):
        press(one, "m")
        one.handle_event(("hold", ["right"]))
        assert np.flatnonzero(s.hand.reshape(2, 3).any(1)).tolist() == chosen
        one.handle_event(("hold", []))


def test_what_the_sliders_say_stands_while_no_key_is_held(viewer):
    s = (one := viewer()).session
    one.handle_event(("change", "hand 1", 0.2))
    one.handle_event(("hold", []))
    assert s.hand.tolist() == [0.0, 0.2, 0, 0, 0, 0]
    one.handle_event(("change", "hand 0", -0.1))
    assert s.hand.tolist() == [-0.1, 0.2, 0, 0, 0, 0]


def test_o_h_and_escape(viewer):
    one = viewer("pendulum")
    lines = len(one.picture().lines)
    press(one, "o")
    assert not one.session.trails and len(one.picture().lines) == lines - 1
    shown = [text for _, _, widgets in one.panels() for _, text, *_ in widgets]
    assert all(line in shown for line in HELP)
    press(one, "h")
    shown = [text for _, _, widgets in one.panels() for _, text, *_ in widgets]
    assert not any(line in shown for line in HELP)
    press(one, "escape")
    assert not one.open


def test_the_mouse_orbits_and_zooms(viewer):
    one = viewer("pendulum")
    home = one.camera
    one.handle_event(("drag", 0.1, 0.05))
    assert one.camera.distance == home.distance and one.camera.target == home.target
    assert one.camera.azimuth < home.azimuth and one.camera.elevation < home.elevation
    one.handle_event(("slide", 0.0, 0.1))
    assert one.camera.distance < home.distance
    here = one.camera.distance
    press(one, "z")
    assert one.camera.distance == pytest.approx(here * viewing.NEARER)
    press(one, "x")
    assert one.camera.distance == pytest.approx(here)


class Script:
    """A window in which somebody presses keys, one list of events a picture."""

    def __init__(self, *events):
        self.events, self.shown, self.closed = list(events), [], False

    def show(self, picture, camera, panels):
        self.shown.append((picture, camera, panels))
        return self.events.pop(0) if self.events else [("close",)]

    def close(self):
        self.closed = True


def test_c_follows_the_points_and_comes_back(viewer):
    one = viewer("pendulum")
    home = one.camera.target
    script = Script([("press", "c")], [], [], [("press", "c")], [], [("press", "escape")])
    one.run(script)
    assert script.closed and len(script.shown) == 6
    followed = [camera.target for _, camera, _ in script.shown]
    assert followed[0] == followed[4] == followed[5] == home
    for picture, camera, _ in script.shown[1:4]:
        assert np.allclose(camera.target, picture.balls[0].centres.mean(0), atol=1e-12)


def test_a_window_that_fails_is_closed_and_its_recording_whole(viewer, tmp_path):
    one = viewer("pendulum")
    script = Script([("press", "v")], [], [()])
    with pytest.raises(ValueError):
        one.run(script)
    assert script.closed and [path.name for path in tmp_path.iterdir()] == ["recording-1.mp4"]
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "recording-1.mp4"))[0] >= 1


def test_widgets_show_and_change_what_they_name(viewer):
    one = viewer("pendulum")
    s = one.session
    widgets = {name: (kind, value) for _, _, rows in one.panels() for kind, name, *value in rows}
    for name, value in (("playing", False), ("policy", False), ("trails", False), ("follow", True), ("keys", False)):
        assert widgets[name] == ("check", [not value])
        one.handle_event(("change", name, value))
    assert (s.playing, s.policy_on, s.trails, one.follow, one.help) == (False, False, False, True, False)
    one.handle_event(("change", "follow", False))
    assert not one.follow
    assert widgets["speed"] == ("slider", [1.0, live.SPEEDS[0], live.SPEEDS[-1]])
    one.handle_event(("change", "speed", 0.3))
    assert s.speed == 0.3
    assert widgets["row"] == ("slider", [4.0, 0.0, 4.0])
    one.handle_event(("change", "row", 2.2))
    assert s.shown == 2
    assert np.allclose(one.picture().balls[0].centres, lifted(s.history[2].x[:, 0]) + one.scene.places)
    assert widgets["hand 0"] == ("slider", [0.0, -s.task.limit, s.task.limit])
    assert widgets["test state"] == ("slider", [0.0, 0.0, 998.0])
    one.handle_event(("change", "test state", 7.3))
    assert s.start == "test state 7" and np.array_equal(s.history[0].x, s.task.test_states(9).x[7:].numpy())
    s.step()
    one.handle_event(("change", "test state", 6.8))
    assert s.start == "test state 7" and s.length == 1
    one.handle_event(("change", "new start", True))
    assert s.start == "new state 1"
    one.handle_event(("change", "next test state", True))
    assert s.start == "test state 9"


def test_the_panel_says_how_each_performer_does(pendulum, policy):
    s = Session(pendulum, [("one", policy), ("broken", lambda o: o[:, :1] * torch.nan)], count=2)
    s.step()
    rows = [row for _, _, widgets in Viewer(s, (320, 180)).panels() for row in widgets]
    good, bad = (next(row for row in rows if row[1].startswith(f"{name}: return ")) for name in ("one", "broken"))
    assert f"return {-s.metrics()[0]['cost']:.3f} " in good[1] and "failed" not in good[1] and "2 failed" in bad[1]
    assert (good[2], bad[2]) == PERFORMERS[:2]


def test_a_recording_lasts_as_long_as_what_it_shows(viewer, tmp_path):
    """Pictures come when they come; the file has 30 a second."""
    (tmp_path / "recording-1.mp4").write_text("mine")
    one = viewer("pendulum")
    before = children("viz.worker")
    press(one, "v")
    path = tmp_path / "recording-2.mp4"
    assert str(path) in one.notice and not path.exists()
    for now in (100.0, 100.5, 100.51, 101.0):
        one._film(one.picture(), now)
    press(one, "v")
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 31
    assert one.notice == f"recorded {path}" and children("viz.worker") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recording-1.mp4", "recording-2.mp4"]


def test_a_recording_whose_encoder_dies_leaves_a_notice_and_no_file(viewer, tmp_path):
    one, before = viewer("pendulum"), children("viz.worker")
    press(one, "v")
    one._film(one.picture(), 0.0)
    (pid,) = children("ffmpeg")
    os.kill(pid, signal.SIGKILL)
    for n in range(300):
        one._film(one.picture(), n / 30)
        if "expected ffmpeg to write" in one.notice:
            break
    assert one.notice.startswith("output: expected ffmpeg to write ") and "\n" not in one.notice and one.open
    assert list(tmp_path.iterdir()) == [] and children("viz.worker") == before and children("ffmpeg") == set()
    press(one, "v")
    assert one.notice == f"recording to {tmp_path / 'recording-1.mp4'}"


@pytest.mark.parametrize("trouble", ["ffmpeg", "size", "folder"])
def test_what_cannot_be_recorded_is_said_in_the_window(viewer, tmp_path, monkeypatch, trouble):
    one = viewer("pendulum")
    if trouble == "ffmpeg":
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nope")
    elif trouble == "size":
        one.size = (321, 180)
    else:
        (tmp_path / "file").write_text("mine")
        one.folder = tmp_path / "file"
    press(one, "v")
    assert one.notice.startswith({"folder": "output"}.get(trouble, trouble) + ": expected ") and one.open
    assert one.notice in [row[1] for _, _, widgets in one.panels() for row in widgets]
    one.run(Script([], [("press", "escape")]))
