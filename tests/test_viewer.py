"""The live simulation, what each key and widget does to it, and the real window on a virtual screen."""

import os
import re
import shutil
import signal
import subprocess
import time

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import ImageGrab
from processes import ENVIRONMENT, PODS, children, pods, refused

import taichi_sim
from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import Builder, InputError, State, Status
from tasks import Quadratic, Shake, Task
from viz import session as live
from viz import viewer as viewing
from viz.camera import Camera
from viz.picture import Balls, Picture, Surface
from viz.scene import HANDLE, PERFORMERS, lifted
from viz.session import Session
from viz.viewer import HELP, Viewer, Window
from viz.window import KEYS

H = 0.024


@pytest.fixture(scope="module")
def pendulum(task):
    return task("pendulum2d-origin", 30)


@pytest.fixture(scope="module")
def hammock():
    """A load between two hands that are free in space."""
    taichi_sim.init("cpu")
    b = Builder("hammock", 3)
    load = b.point((0.0, 0.0, -0.3), mass=0.1)
    for x in (-0.2, 0.2):
        b.spring(b.handle((x, 0.0, 0.0), axes="xyz"), load, stiffness=200.0, damping=0.5)
    return Task("hammock", b.build(), 0.02, 30, 0.6, Quadratic(1.0, 1.0, 0.2, 0.05), Shake())


@pytest.fixture(scope="module")
def policy(pendulum):
    return Policy(pendulum, 0)


def moved(s: Session, performer=0):
    """(m,) m/s, what the handles of a performer's first copy did in the last step."""
    before, after = (row.p[performer * s.count].reshape(-1) for row in s.history[-2:])
    return (after - before) @ s.task.system.axes / s.task.h


# Session


def test_chained_steps_are_the_rollout_of_the_learner(pendulum, policy):
    s = Session(pendulum, [("policy", policy), ("still", None)], count=2, state=5)
    for _ in range(30):
        s.step()
    start = pendulum.test_states(7)[5:]
    still = torch.zeros(1, dtype=start.x.dtype)
    for n, act in enumerate((policy, lambda o: still)):
        rows, mine = closed_loop(pendulum, act, start), slice(2 * n, 2 * n + 2)
        for name in ("x", "v", "p"):
            seen = np.stack([getattr(row, name)[mine] for row in s.history], 1)
            assert np.array_equal(seen, getattr(rows, name).numpy())
        cost = -pendulum.rewards(rows).cumsum(1).numpy()
        assert np.allclose(np.stack([row.cost[mine] for row in s.history[1:]], 1), cost, rtol=1e-12)
        kinetic = 0.5 * 0.05 * rows.v[:, -1].square().sum((-2, -1)).mean()
        distance = (rows.x[:, -1] - pendulum.goal).norm(dim=-1).mean()
        expected = {"cost": cost[:, -1].mean(), "kinetic": kinetic, "distance": distance, "failed": 0}
        assert s.metrics()[n] == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-12)
    assert s.time == pytest.approx(30 * H) and s.horizon == pytest.approx(30 * H)


def test_time_goes_on_as_fast_as_the_watchers(pendulum):
    s = Session(pendulum, [("still", None)])
    assert s.elapse(3.5 * H) == 3 and s.elapse(0.6 * H) == 1 and s.elapse(0.3 * H) == 0 and s.length == 4
    assert s.elapse(60.0) == int(live.LATE / H)  # what a slow picture missed is not made up for
    s.change_speed(0.5)
    before = s.length
    assert sum(s.elapse(H / 2) for _ in range(40)) in (9, 10, 11) and before + 9 <= s.length <= before + 11
    for _ in range(20):
        s.change_speed(0.5)
    assert s.speed == live.SPEEDS[0]
    for _ in range(20):
        s.change_speed(2.0)
    assert s.speed == live.SPEEDS[-1]


def test_nothing_happens_in_a_pause_or_while_the_past_is_shown(pendulum):
    s = Session(pendulum, [("still", None)])
    s.playing = False
    assert s.elapse(1.0) == 0 and s.length == 0
    s.playing, s.scrub = True, 0
    assert s.elapse(1.0) == 0 and s.length == 0
    s.scrub = None
    assert s.elapse(H * 1.01) == 1 and s.length == 1


def test_starting_again_repeats_and_starting_anew_does_not(pendulum, policy):
    s = Session(pendulum, [("policy", policy)], count=2, state=3)

    def run():
        for _ in range(10):
            s.step()
        return np.stack([row.x for row in s.history])

    first = run()
    s.reset(3)
    assert s.length == 0 and s.history[0].cost.tolist() == [0, 0] and np.array_equal(run(), first)
    starts = [first[0]]
    for _ in range(2):
        s.reset()
        starts.append(s.history[0].x)
    s.reset(3)
    s.next_state()
    assert s.start == "test state 5" and np.array_equal(s.history[0].x, pendulum.test_states(7)[5:].x.numpy())
    starts.append(s.history[0].x)
    assert len({start.tobytes() for start in starts}) == 4
    judged = pendulum.test_states().x.numpy()
    assert not any((judged[:, None] == start).all((2, 3)).any() for start in starts[1:3])


def test_all_performers_start_alike(pendulum, policy):
    s = Session(pendulum, [("policy", policy), ("still", None), ("again", policy)], count=2)
    s.reset()
    x = s.history[0].x.reshape(3, 2, 1, 2)
    assert np.array_equal(x[0], x[1]) and np.array_equal(x[0], x[2]) and not np.array_equal(x[0, 0], x[0, 1])


def test_a_hand_drives_only_where_it_moves_and_within_the_limit(task):
    made = task("pendulum3d-stop", 30)
    s = Session(made, [("policy", Policy(made, 0))])
    s.step()
    alone = moved(s)
    assert (np.abs(alone) > 1e-3).all()
    s.reset(0)
    s.hand = np.array([0.3, 0.0])
    s.step()
    assert moved(s) == pytest.approx([0.3, alone[1]], abs=1e-12)
    s.reset(0)
    s.hand = np.array([0.0, -50.0])
    s.step()
    assert moved(s) == pytest.approx([alone[0], -made.limit], abs=1e-12)
    s.reset(0)
    s.hand, s.policy_on = np.zeros(2), False
    s.step()
    assert moved(s) == pytest.approx([0.0, 0.0], abs=1e-15)


def test_a_push_gives_every_point_the_same_velocity(task):
    made = task("double3d-stop", 30)
    s = Session(made, [("still", None)], count=2)
    for _ in range(5):
        s.step()
    at = s.history[-1]
    s.push((0.0, 3.0, 0.0))
    s.step()
    kick = torch.tensor([0.0, live.PUSH, 0.0], dtype=torch.float64)
    x, v, p = (torch.as_tensor(y) for y in (at.x, at.v, at.p))
    rows = made.simulator.rollout(State.start(x, v + kick, p), torch.zeros(2, 1, 2, dtype=torch.float64))
    for name in ("x", "v"):
        assert np.array_equal(getattr(s.history[-1], name), getattr(rows, name)[:, 1].numpy())


def test_a_moved_target_is_a_moved_world(pendulum):
    """Seen from the target, everything is as if the system had started as far on the other side."""

    def towards_the_goal(observation):
        return (-4.0 * observation[:, :1]).clamp(-pendulum.limit, pendulum.limit)

    s = Session(pendulum, [("policy", towards_the_goal)], count=2)
    s.move_target((1.0, 0.0))
    s.move_target((1.0, 0.0))
    assert s.target.tolist() == [2 * live.REACH, 0.0]
    for _ in range(30):
        s.step()
    start, shift = pendulum.test_states(2), torch.tensor([2 * live.REACH, 0.0], dtype=torch.float64)
    rows = closed_loop(pendulum, towards_the_goal, State.start(start.x - shift, start.v, start.p - shift))
    unmoved = closed_loop(pendulum, towards_the_goal, start)
    seen = torch.as_tensor(np.stack([row.x for row in s.history], 1))
    assert (seen - (rows.x + shift)).abs().max() < 1e-10
    assert (seen - unmoved.x).abs().max() > 0.05
    assert np.allclose(s.history[-1].cost, -pendulum.returns(rows).numpy(), rtol=1e-10)
    distance = (rows.x[:, -1] - pendulum.goal).norm(dim=-1).mean().item()
    assert s.metrics()[0]["distance"] == pytest.approx(distance, rel=1e-9)


def test_a_target_moves_only_where_a_handle_can_follow(pendulum, task):
    s = Session(pendulum, [("still", None)])
    s.move_target((1.0, -1.0))
    assert s.target.tolist() == [live.REACH, 0.0]  # a rail
    s = Session(task("cloth-lay", 5), [("still", None)])
    s.move_target((1.0, -1.0, 1.0))
    assert s.target.tolist() == [live.REACH, -live.REACH, 0.0]  # a table


def test_history_forgets_the_oldest_rows_and_shows_the_others(pendulum, monkeypatch):
    monkeypatch.setattr(live, "ROWS", 10)
    s, seen = Session(pendulum, [("still", None)]), []
    for _ in range(25):
        seen.append(s.history[-1])
        s.step()
    seen.append(s.history[-1])
    assert s.history == seen[-10:] and s.time == pytest.approx(25 * H)
    for scrub, row in ((0, 16), (4, 20), (-3, 16), (99, 25)):
        s.scrub = scrub
        assert s.time == pytest.approx(row * H) and s.metrics()[0]["cost"] == seen[row].cost[0]
        path = s.trail(2 * H)
        expected = [r.x.mean(1) for r in seen[max(16, row - 2) : row + 1]]
        assert np.array_equal(path, np.stack([expected[0]] * (2 - len(expected)) + expected, 1))


def test_a_failed_step_is_told_and_harms_nobody_else(pendulum, policy):
    s = Session(pendulum, [("broken", lambda o: o[:, :1] * torch.nan), ("policy", policy)], count=2)
    alone = Session(pendulum, [("policy", policy)], count=2)
    for n in range(5):
        s.step()
        alone.step()
        row = s.history[-1]
        assert (row.status[:2] != Status.OK).all() and (row.status[2:] == Status.OK).all()
        assert np.array_equal(row.x[:2], s.history[0].x[:2]) and np.array_equal(row.x[2:], alone.history[-1].x)
        assert [m["failed"] for m in s.metrics()] == [2, 0] and s.length == n + 1


@pytest.mark.parametrize("performers, count, message", [
    ([], 1, "performers: expected at least one"),
    ([("still", None)], 0, "count: expected 1 to 1000 rollouts, got 0"),
    ([("still", None)], 1001, "count: expected 1 to 1000 rollouts, got 1001"),
])  # fmt: skip
def test_a_session_refuses_what_it_cannot_show(pendulum, performers, count, message):
    with pytest.raises(InputError, match=message):
        Session(pendulum, performers, count)


# Viewer


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


MOUSE = ("left drag", "right drag,")


def help_keys():
    """Every key that the help names, as the window calls it."""
    keys = []
    for entry in (part for line in HELP for part in re.split(r"\s{3,}", line)):
        named = entry.rpartition("  ")[0]
        for words in MOUSE:
            named = named.replace(words, "")
        keys += named.split()
    return [key for word in keys for key in (["left", "right", "up", "down"] if word == "arrows" else [word])]


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


# The window


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
