"""Pictures to film, and films to look at."""

import imageio_ffmpeg
import numpy as np

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
