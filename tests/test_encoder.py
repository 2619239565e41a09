"""Files of frames: what is written is shown, and a failure leaves nothing behind."""

import os
import signal

import imageio.v3
import imageio_ffmpeg
import numpy as np
import pytest
from films import SIZE, decoded, frames
from processes import children

from taichi_sim import InputError
from viz.encoder import Encoder

pytestmark = pytest.mark.usefixtures("temporary")


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
