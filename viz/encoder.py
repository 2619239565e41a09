"""Video files, written frame by frame."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from taichi_sim.errors import InputError, expect

SUFFIXES = (".mp4", ".gif")


class Encoder:
    """Writes frames (height, width, 3) uint8 to an H.264 .mp4 or a .gif. The file appears when it is whole.

    Use as a context; a frame's memory is free once it is written. Raises `InputError` for a path that cannot be
    written, for odd sizes (H.264 in 4:2:0 wants even ones) and where there is no ffmpeg.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float):
        check(path, size)
        self.path, self.size, self.fps = Path(path), size, float(fps)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=".pods-video-", dir=self.path.parent)
        except OSError as error:
            raise InputError(f"output: expected a place to write to, got {path} ({error.strerror})") from error
        self._part = Path(self._folder.name) / f"video{self.path.suffix}"
        self._palette = tempfile.TemporaryDirectory(prefix="pods-video-")  # where ffmpeg's filters can spell the path
        self._writer = None

    def write(self, frame: np.ndarray):
        try:
            if self._writer is None:
                self._writer = self._open(frame)
            self._writer.send(np.ascontiguousarray(frame))
        except OSError as error:  # the disk is full, or ffmpeg was killed
            raise InputError(
                f"output: expected ffmpeg to write {self.path}, got {str(error).splitlines()[0]}"
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if self._writer is not None:
                self._writer.close()
                if kind is None:
                    os.replace(self._part, self.path)
        finally:
            self._folder.cleanup()
            self._palette.cleanup()

    def _open(self, first: np.ndarray):
        import imageio_ffmpeg

        settings = {"codec": "libx264", "pix_fmt_out": "yuv420p", "quality": 8}
        parameters = ["-movflags", "+faststart"]
        if self.path.suffix == ".gif":
            settings = {"codec": "gif", "pix_fmt_out": "pal8", "quality": None}
            use = f"movie={self._write_palette(first)}[p];[0:v][p]paletteuse=dither=none:diff_mode=rectangle"
            parameters = ["-filter_complex", use]
        writer = imageio_ffmpeg.write_frames(
            str(self._part),
            self.size,
            fps=self.fps,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=parameters,
            **settings,
        )
        writer.send(None)
        return writer

    def _write_palette(self, first: np.ndarray) -> Path:
        """256 colours of the first frame, for all: a palette for each frame takes ten times the bytes."""
        from PIL import Image

        path = Path(self._palette.name) / "palette.png"
        colours = np.zeros((256, 3), np.uint8)
        found = np.array(Image.fromarray(first).quantize(254).getpalette(), np.uint8).reshape(-1, 3)
        colours[: len(found)] = found
        Image.fromarray(colours.reshape(16, 16, 3)).save(path)
        return path


def check(path: str | Path, size: tuple[int, int]):
    """Raise `InputError` if a video of that name and size cannot be written here; cheap, for before the work."""
    import imageio_ffmpeg

    path = Path(path)
    expect(path.suffix in SUFFIXES, "output", f"a name that ends in {' or '.join(SUFFIXES)}", str(path))
    expect(size[0] % 2 == 0 and size[1] % 2 == 0, "size", "even numbers of pixels", f"{size[0]}x{size[1]}")
    check_place(path)
    try:
        imageio_ffmpeg.get_ffmpeg_version()  # runs it
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        found = os.environ.get("IMAGEIO_FFMPEG_EXE", "none")
        raise InputError(f"ffmpeg: expected one that runs, got {found}") from error


def check_place(path: str | Path):
    """Raise `InputError` if no file can be written there; folders may still have to be made."""
    path = Path(path)
    expect(not os.path.isdir(path), "output", "a file", f"the folder {path}")
    check_folder(path.absolute().parent, path)


def check_folder(folder: Path, said: str | Path):
    """Raise `InputError` if no file can be written in `folder`, which may still have to be made; `said`: its name."""
    try:
        there = next((p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p)), Path("/"))
        with tempfile.TemporaryFile(dir=there):
            longest = os.pathconf(there, "PC_NAME_MAX")
        good = all("\0" not in part and len(os.fsencode(part)) <= longest for part in Path(said).parts)
    except (OSError, ValueError):
        good = False
    expect(good, "output", "a place to write to", said)
