"""Videos and pictures from the command line."""

import json
import os
import shutil

import imageio.v3
import numpy as np
import pytest
from films import decoded
from processes import pods, refused

import pods as command_line
import taichi_sim
from learner.rollouts import closed_loop
from viz import video
from viz.renderer import PlainRenderer

pytestmark = pytest.mark.usefixtures("temporary")


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
