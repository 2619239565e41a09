"""Films of rollouts."""

import os
import signal

import numpy as np
import pytest
import torch
from films import SIZE, decoded
from processes import children, memory

from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import InputError
from viz import video
from viz.renderer import NoVulkan, PlainRenderer
from viz.scene import lifted

pytestmark = pytest.mark.usefixtures("temporary")


@pytest.fixture(scope="module")
def rollouts(task):
    """rollouts(N, states): of no motion and of an untrained policy on pendulum2d-origin."""

    def make(N=10, states=2):
        made = task("pendulum2d-origin", N)
        start = made.test_states(states)
        still = torch.zeros(made.system.actions, dtype=start.x.dtype)
        policies = {"no motion": lambda o: still, "policy": Policy(made, 0)}
        return made, [video.Performance(name, closed_loop(made, p, start)) for name, p in policies.items()]

    return make


@pytest.mark.parametrize("fps, speed", [(30.0, 1.0), (30.0, 0.25), (24.0, 3.0), (7.0, 1.0)])
def test_a_film_lasts_as_long_as_what_it_shows(rollouts, fps, speed):
    made, performances = rollouts()
    film = video.Film(made, performances, SIZE, fps, speed)
    seconds = 10 * 0.024 / speed
    assert abs(film.frames / fps - seconds - video.HOLD) <= 1.001 / fps
    assert [film.row(n) for n in range(film.frames)] == pytest.approx(
        [min(n / fps * speed / 0.024, 10) for n in range(film.frames)]
    )
    held = [n for n in range(film.frames) if film.row(n) == 10]
    assert len(held) / fps == pytest.approx(video.HOLD, abs=1.01 / fps)


def test_positions_between_rows_are_interpolated(rollouts):
    made, performances = rollouts()
    film = video.Film(made, performances, SIZE, fps=110.0, speed=0.9)
    rows = np.concatenate([p.rows.x.numpy() for p in performances])  # (4, 11, 1, 2)
    handles = np.concatenate([p.rows.p.numpy() for p in performances])
    for frame in range(film.frames):
        at = np.arange(11) * 0.024
        now = min(frame / 110.0 * 0.9, at[-1])

        def between(y, at=at, now=now):
            flat = y.transpose(1, 0, 2, 3).reshape(11, -1)
            return np.array([np.interp(now, at, c) for c in flat.T]).reshape(4, 1, 2)

        picture = film.picture(frame)
        for drawn, known in ((picture.balls[0].centres, rows), (picture.boxes[0].centres, handles)):
            assert np.allclose(drawn, (lifted(between(known)) + film.scene.places[:, None]).reshape(-1, 3), atol=1e-12)


def test_the_table_says_what_the_rollouts_cost_and_covers_none_of_them(rollouts):
    """What is written over a picture lies above everything that moves; where nothing is written it is the picture."""
    made, performances = rollouts(states=1)
    film, size = video.Film(made, performances, (480, 270)), (480, 270)
    pen = PlainRenderer(size)
    for frame in (0, film.frames - 1):
        written = (film.image(frame, pen) != pen.draw(film.picture(frame), film.camera)).any(-1)
        assert written[:20, :240].any() and written[:20, 400:].any()
        places = film.scene.places[:, None, None]
        visited = [lifted(np.stack([getattr(p.rows, k)[0].numpy() for p in performances])) + places for k in "xp"]
        pixels, _ = film.camera.project(np.concatenate([y.reshape(-1, 3) for y in visited]), size)
        assert np.argwhere(written)[:, 0].max() < pixels[:, 1].min()
        assert (pixels >= 0).all() and (pixels < size).all()


def test_the_costs_in_the_table_are_those_of_the_task(rollouts):
    made, performances = rollouts()
    for performance in performances:
        cost, kinetic, far = video._metrics(made, performance.rows)
        rows = performance.rows
        assert cost[0] == 0 and cost[-1] == pytest.approx(-made.returns(rows).mean().item(), rel=1e-12)
        energy = 0.5 * 0.05 * rows.v.square().sum((-2, -1)).mean(0)
        assert np.allclose(kinetic, energy, rtol=1e-12)
        assert np.allclose(far, (rows.x - made.goal).norm(dim=-1).mean((0, 2)), rtol=1e-12)


@pytest.mark.parametrize("change, message", [
    ({"fps": 0.0}, "fps: expected a number > 0, got 0.0"),
    ({"fps": float("nan")}, "fps: expected a number > 0, got nan"),
    ({"speed": -1.0}, "speed: expected a number > 0, got -1.0"),
    ({"speed": float("inf")}, "speed: expected a number > 0, got inf"),
    ({"size": (62, 64)}, "size: expected at least 64x64, got 62x64"),
    ({"performances": []}, "performances: expected at least one, got 0"),
])  # fmt: skip
def test_a_film_refuses_what_it_cannot_show(rollouts, change, message):
    made, performances = rollouts()
    with pytest.raises(InputError, match=message):
        video.Film(made, **({"performances": performances, "size": SIZE} | change))


def test_performances_of_different_numbers_of_rollouts_are_refused(rollouts):
    made, (one, other) = rollouts()
    with pytest.raises(InputError, match="performances: expected 2 rollouts each"):
        video.Film(made, [one, video.Performance("other", other.rows[:1])], SIZE)


@pytest.mark.parametrize("name, speed", [("film.mp4", 0.5), ("film.gif", 1.0)])
def test_the_file_of_a_film_has_its_frames(rollouts, tmp_path, name, speed):
    made, performances = rollouts(20)
    film, seen = video.Film(made, performances, (160, 90), 25.0, speed), []
    video.write(film, tmp_path / name, "plain", notice=pytest.fail, progress=seen.append)
    assert seen == list(range(film.frames)) and [path.name for path in tmp_path.iterdir()] == [name]
    found, about = decoded(tmp_path / name)
    assert len(found) == film.frames and about["fps"] == 25 and about["size"] == (160, 90)
    assert about["duration"] == pytest.approx(20 * 0.024 / speed + video.HOLD, abs=0.05)
    pen = PlainRenderer((160, 90))
    for frame in (0, film.frames // 2, film.frames - 1):
        assert np.abs(found[frame] - film.image(frame, pen)).mean() < 4
    first, last = film.image(0, pen).astype(int), film.image(film.frames - 1, pen).astype(int)
    assert np.abs(found[0] - first).sum() < 0.5 * np.abs(found[0] - last).sum()


def test_a_renderer_that_does_not_exist_leaves_no_file(rollouts, tmp_path):
    made, performances = rollouts()
    with pytest.raises(InputError, match="renderer: expected one of"):
        video.write(video.Film(made, performances, SIZE), tmp_path / "film.mp4", "opengl")
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_process_killed_in_mid_film_costs_one_notice_and_no_frame(vulkan, rollouts, tmp_path):
    made, performances = rollouts()
    film, said, before = video.Film(made, performances, (160, 90)), [], children("viz.worker")

    def kill(frame):
        if frame == 5:
            (pid,) = children("viz.worker") - before
            os.kill(pid, signal.SIGKILL)

    video.write(film, tmp_path / "film.mp4", notice=said.append, progress=kill)
    assert len(said) == 1 and "ended with code -9" in said[0]
    found, _ = decoded(tmp_path / "film.mp4")
    assert len(found) == film.frames
    assert (np.abs(found - found[0]).mean((1, 2, 3)) < 25).all()  # the same scene before and after
    assert children("viz.worker") == before and children("ffmpeg") == set()


def test_a_film_that_must_be_drawn_by_vulkan_is_an_error_without(rollouts, tmp_path, monkeypatch):
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, "/nonexistent")
    made, performances = rollouts()
    with pytest.raises(NoVulkan, match="renderer: expected a working Vulkan, got "):
        video.write(video.Film(made, performances, SIZE), tmp_path / "film.mp4", "vulkan")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_length(rollouts, tmp_path):
    """Of this process and of ffmpeg; 200 frames kept would be 33 MiB."""
    made, performances = rollouts(60, 1)
    film, held = video.Film(made, performances, (320, 180), fps=140.0), {}

    def look(frame):
        if frame in (60, film.frames - 1):
            (encoder,) = children("ffmpeg")
            held[frame] = memory("self") + memory(encoder)

    video.write(film, tmp_path / "film.mp4", "plain", progress=look)
    first, last = held.values()
    assert film.frames >= 260 and last - first < 8
