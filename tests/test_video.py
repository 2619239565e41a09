"""Video files: that they decode and show what was written, at the speed at which it happened, whole or not at all."""

import json
import os
import shutil
import signal
import tempfile

import imageio.v3
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from processes import children, memory, pods, refused

import pods as command_line
import taichi_sim
from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import InputError
from viz import video
from viz.encoder import Encoder
from viz.renderer import NoVulkan, PlainRenderer
from viz.scene import lifted

SIZE = (96, 64)


def frames(count, size=SIZE):
    """Smooth pictures of which no two are alike, in the colours of the first."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    for n in range(count):
        part = 0.13 * n
        red, green = 60 + 120 * np.abs((x + part) % 1 - 0.5), 60 + 120 * np.abs((y + part) % 1 - 0.5)
        yield np.stack((red, green, np.full_like(x, 120.0)), -1).astype(np.uint8)


def decoded(path):
    """The frames of a video (n, height, width, 3) and what ffmpeg says of it."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    shape = about["size"][::-1]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(*shape, 3) for frame in reader]).astype(int), about


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """A place of its own for temporary files, which a test must leave empty."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


# Encoder


def test_an_mp4_shows_what_was_written(tmp_path):
    path = tmp_path / "new" / "folder" / "film.mp4"
    with Encoder(path, SIZE, 25) as encoder:
        for frame in frames(41):
            encoder.write(frame)
            assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert count == 41 and seconds == pytest.approx(41 / 25, abs=0.03)
    found, about = decoded(path)
    assert (about["size"], about["fps"], about["codec"]) == (SIZE, 25, "h264")
    assert about["pix_fmt"].startswith("yuv420p") and about["duration"] == pytest.approx(41 / 25, abs=0.03)
    written = np.stack(list(frames(41))).astype(int)
    error, wrong = (np.abs(found - other).mean() for other in (written, np.roll(written, 1, 0)))
    assert error < 3 and error < 0.5 * wrong


def test_an_mp4_can_be_played_before_all_of_it_is_there(tmp_path):
    with Encoder(tmp_path / "film.mp4", SIZE, 25) as encoder:
        for frame in frames(3):
            encoder.write(frame)
    data = (tmp_path / "film.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_gif_shows_what_was_written(tmp_path):
    with Encoder(tmp_path / "film.gif", SIZE, 25) as encoder:
        for frame in frames(21):
            encoder.write(frame)
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]
    found = imageio.v3.imread(tmp_path / "film.gif", plugin="pillow", mode="RGB").astype(int)
    assert found.shape == (21, 64, 96, 3)
    written = np.stack(list(frames(21))).astype(int)
    error, wrong = (np.abs(found - other).mean() for other in (written, np.roll(written, 1, 0)))
    assert error < 3 and error < 0.5 * wrong
    assert imageio.v3.immeta(tmp_path / "film.gif", plugin="pillow")["duration"] == 40  # ms


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_leaves_nothing_behind_and_the_old_file_alone(tmp_path, name, after):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ZeroDivisionError), Encoder(tmp_path / name, SIZE, 25) as encoder:
        for frame in frames(after):
            encoder.write(frame)
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == [tmp_path / name] and (tmp_path / name).read_text() == "mine"
    assert children("ffmpeg") == set()


def test_an_encoder_that_dies_is_one_line_and_no_file(tmp_path):
    with pytest.raises(InputError, match="^output: expected ffmpeg to write .*film.mp4, got [^\n]*$"):
        with Encoder(tmp_path / "film.mp4", SIZE, 25) as encoder:
            for frame in frames(300):
                encoder.write(frame)
                for pid in children("ffmpeg"):
                    os.kill(pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == [] and children("ffmpeg") == set()


def test_a_film_without_frames_is_no_file(tmp_path):
    with Encoder(tmp_path / "film.mp4", SIZE, 25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_replaced(tmp_path):
    (tmp_path / "film.mp4").write_text("old")
    with Encoder(tmp_path / "film.mp4", SIZE, 25) as encoder:
        encoder.write(next(frames(1)))
    assert len(decoded(tmp_path / "film.mp4")[0]) == 1


@pytest.mark.parametrize("name, size, message", [
    ("film.avi", SIZE, "output: expected a name that ends in .mp4 or .gif, got "),
    ("film", SIZE, "output: expected a name that ends in .mp4 or .gif, got "),
    ("film.mp4", (97, 64), "size: expected even numbers of pixels, got 97x64"),
    ("film.mp4", (96, 63), "size: expected even numbers of pixels, got 96x63"),
    ("folder.mp4", SIZE, "output: expected a file, got the folder "),
    ("file.txt/film.mp4", SIZE, "output: expected a place to write to, got "),
    ("file.txt/new/film.mp4", SIZE, "output: expected a place to write to, got "),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(tmp_path, name, size, message):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(InputError) as error:
        Encoder(tmp_path / name, size, 25)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"folder.mp4", "file.txt"}


def test_a_place_where_even_root_cannot_write_is_refused():
    with pytest.raises(InputError, match="output: expected a place to write to, got /proc/film.mp4"):
        Encoder("/proc/film.mp4", SIZE, 25)


def test_without_ffmpeg_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nope")
    with pytest.raises(InputError, match="^ffmpeg: expected one that runs, got /nope$"):
        Encoder(tmp_path / "film.mp4", SIZE, 25)
    assert list(tmp_path.iterdir()) == []


# Film


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


# The commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of a full horizon, filmed, one that could not be filmed, and what their trainings said."""
    folder = tmp_path_factory.mktemp("runs")
    few = ("--k", 8, "--steps", 2, "--epochs", 1, "--video")
    filmed = pods("train", "pendulum2d-stop", *few, "--run", "filmed", cwd=folder)
    dark = ("train", "pendulum2d-stop", *few, "--horizon", 20, "--run", "dark")
    unfilmed = pods(*dark, cwd=folder, IMAGEIO_FFMPEG_EXE="/nope")
    shutil.copytree(folder / "filmed", folder / "other")
    return folder, filmed, unfilmed


def test_training_leaves_a_video(trained):
    folder, done, _ = trained
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith(f"video: {os.path.join('filmed', 'video.mp4')}\n")
    found, about = decoded(folder / "filmed" / "video.mp4")
    assert about["size"] == (640, 360) and about["codec"] == "h264"
    assert len(found) / about["fps"] == pytest.approx(150 * 0.024 + video.HOLD, abs=1.001 / about["fps"])
    assert np.abs(found[0] - found[-1]).mean() > 1 and found.std() > 10


def test_training_without_ffmpeg_is_whole_and_says_so_in_one_line(trained):
    folder, _, done = trained
    assert done.returncode == 0
    assert done.stderr == "pods: no video: ffmpeg: expected one that runs, got /nope\n"
    result = json.loads((folder / "dark" / "evaluation.json").read_text())
    assert result["return"] < 0 and result["failed"] == 0
    files = {path.name for path in (folder / "dark").iterdir()}
    assert files == {".lock", "config.json", "log.csv", "evaluation.json", "curve.png", "checkpoints"}


VIDEO = ("--states", "0,3", "--best", "--size", "320x180", "--renderer", "plain", "--device", "cpu")


@pytest.fixture(scope="module")
def expected(trained, task):
    """The film that `VIDEO` asks for of two equal runs."""
    from commands import runs
    from learner import reference

    made = task("pendulum2d-stop")
    start = made.test_states(4)[[0, 3]]
    policy = runs.policy_of(runs.open_run(trained[0] / "filmed"), made)
    known = made.simulator.rollout(start, reference.load(made).actions[[0, 3]].to(start.x))
    rows = closed_loop(made, policy, start)
    shown = {"filmed": rows, "other": rows, "best known": known}
    return video.Film(made, [video.Performance(*item) for item in shown.items()], (320, 180), 10.0)


def test_two_runs_and_the_best_known_actions_side_by_side(trained, expected, tmp_path):
    folder = trained[0]
    done = pods("video", "filmed", "other", *VIDEO, "--fps", 10, "-o", tmp_path / "new" / "film.mp4", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"written to {tmp_path / 'new' / 'film.mp4'}\n"
    found, about = decoded(tmp_path / "new" / "film.mp4")
    assert len(found) == expected.frames == 150 * 0.024 * 10 + 1 + 5 and about["fps"] == 10
    pen = PlainRenderer((320, 180))
    for frame in (0, 20, 41):
        assert np.abs(found[frame] - expected.image(frame, pen)).mean() < 4


def run_here(capfd, *arguments):
    """Exit code and what was said of a command in this process."""
    try:
        code = command_line.main([str(a) for a in arguments])
    except SystemExit as error:
        code = error.code
    return code, *capfd.readouterr()


def test_a_still_shows_the_moment_that_was_asked_for(trained, expected, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(trained[0])
    path = tmp_path / "new" / "still.png"
    code, out, err = run_here(capfd, "video", "filmed", "other", *VIDEO, "--fps", 10, "--at", 1.2, "-o", path)
    assert (code, out, err) == (0, f"written to {path}\n", "")
    assert np.array_equal(imageio.v3.imread(path), expected.image(12, PlainRenderer((320, 180))))


def test_a_still_after_the_end_shows_the_end(trained, expected, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(trained[0])
    path = tmp_path / "still.png"
    code, _, _ = run_here(capfd, "video", "filmed", "other", *VIDEO, "--fps", 10, "--at", 1e6, "-o", path)
    assert code == 0
    assert np.array_equal(imageio.v3.imread(path), expected.image(41, PlainRenderer((320, 180))))


@pytest.mark.parametrize("arguments, message", [
    (("nowhere", "-o", "x.avi"), "output: expected a name that ends in .mp4 or .gif, got x.avi"),
    (("nowhere", "-o", "taken.mp4"), "output: expected a file, got the folder taken.mp4"),
    (("nowhere", "-o", "file.txt/x.mp4"), "output: expected a place to write to, got file.txt/x.mp4"),
    (("nowhere", "-o", "/proc/x.mp4"), "output: expected a place to write to, got /proc/x.mp4"),
    (("nowhere", "-o", "/sys/x.png", "--at", "0"), "output: expected a place to write to, got /sys/x.png"),
    (("nowhere", "-o", "x.mp4", "--size", "97x64"), "size: expected even numbers of pixels, got 97x64"),
    (("nowhere", "-o", "x.mp4", "--size", "big"), "size: expected WIDTHxHEIGHT, like 1280x720, got 'big'"),
    (("nowhere", "-o", "x.mp4", "--size", "64x-64"), "size: expected WIDTHxHEIGHT"),
    (("nowhere", "-o", "x.mp4", "--states", "0,a"), "states: expected numbers of test states, 0 to 999, like 0,3, got"),
    (("nowhere", "-o", "x.mp4", "--states", "1000"), "states: expected numbers of test states"),
    (("nowhere", "-o", "x.mp4", "--states", "-1"), "states: expected numbers of test states"),
    (("nowhere", "-o", "x.mp4", "--states", ""), "states: expected numbers of test states"),
    (("nowhere", "-o", "x.mp4", "--at", "1"), "at: expected --at SECONDS with a .png, and only there"),
    (("nowhere", "-o", "x.png"), "at: expected --at SECONDS with a .png, and only there"),
    (("nowhere", "-o", "x.png", "--at", "-1"), "at: expected seconds >= 0, got -1.0"),
    (("nowhere", "-o", "x.mp4"), "run: expected a run folder with a config.json, got nowhere"),
    (("nowhere", "-o", "x.mp4", "--fps", "fast"), "argument --fps: expected a number, got 'fast'"),
    (("nowhere",), "the following arguments are required: -o/--output"),
    (("pendulum2d-stop", "double3d-stop", "-o", "x.mp4"), "RUN: expected runs of one task, got double3d-stop, pen"),
    (("filmed", "double3d-stop", "-o", "x.mp4"), "RUN: expected runs of one task, got double3d-stop, pendulum2d-stop"),
    (("filmed", "dark", "-o", "x.mp4"), "RUN: expected runs of one horizon, got 20, 150"),
    (("dark", "--best", "-o", "x.mp4"), "best: expected known actions for pendulum2d-stop as it is now, got none"),
    (("dark", "-o", "x.mp4", "--size", "32x32"), "size: expected at least 64x64, got 32x32"),
    (("dark", "-o", "x.mp4", "--fps", "0"), "fps: expected a number > 0, got 0.0"),
    (("dark", "-o", "x.mp4", "--speed", "nan"), "speed: expected a number > 0, got nan"),
    (("dark", "-o", "x.mp4", "--renderer", "opengl"), "renderer: expected one of auto, vulkan, plain, got 'opengl'"),
    (("nowhere", "-o", "file.txt/x.png", "--at", "0"), "output: expected a place to write to, got file.txt/x.png"),
    (("nowhere", "-o", "taken.png", "--at", "0"), "output: expected a file, got the folder taken.png"),
])  # fmt: skip
def test_a_mistake_is_answered_in_one_line(trained, tmp_path, monkeypatch, capfd, arguments, message):
    """What is wrong with the output is said before a run is even looked for."""
    taichi_sim.init("cpu")
    monkeypatch.chdir(tmp_path)
    for name in ("filmed", "dark"):
        os.symlink(trained[0] / name, name)
    os.mkdir("taken.mp4")
    os.mkdir("taken.png")
    (tmp_path / "file.txt").write_text("mine")
    size = () if "--size" in arguments else ("--size", "64x64")
    refused(*run_here(capfd, "video", *arguments, *size, "--device", "cpu"), message)
    assert {path.name for path in tmp_path.iterdir()} == {"filmed", "dark", "taken.mp4", "taken.png", "file.txt"}


def test_without_vulkan_the_command_says_so_and_goes_on(trained, tmp_path):
    nothing = {"VK_ICD_FILENAMES": "/nonexistent", "VK_DRIVER_FILES": "/nonexistent"}
    few = ("--size", "64x64", "--fps", 4, "-o", tmp_path / "film.mp4")
    done = pods("video", trained[0] / "dark", *few, cwd=tmp_path, **nothing)
    assert done.returncode == 0 and done.stdout == f"written to {tmp_path / 'film.mp4'}\n"
    assert done.stderr.startswith("pods: no Vulkan (") and done.stderr.count("\n") == 1
    assert len(decoded(tmp_path / "film.mp4")[0]) == int(20 * 0.024 * 4) + 1 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_without_ffmpeg_the_command_stops_before_any_work(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nope")
    refused(
        *run_here(capfd, "video", "nowhere", "-o", tmp_path / "film.mp4"), "ffmpeg: expected one that runs, got /nope"
    )
    assert list(tmp_path.iterdir()) == []


def test_where_vulkan_is_asked_for_the_command_does_not_go_on_without(trained, tmp_path, monkeypatch, capfd):
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, "/nonexistent")
    few = ("--size", "64x64", "-o", tmp_path / "film.mp4", "--renderer", "vulkan", "--device", "cpu")
    said = run_here(capfd, "video", trained[0] / "dark", *few)
    refused(*said, "renderer: expected a working Vulkan, got ")
    assert list(tmp_path.iterdir()) == []
