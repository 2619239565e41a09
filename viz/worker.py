"""A process that draws: pictures come in through a pipe, images go out. Run by `renderer`, never imported by it.

GGUI crashes without a working Vulkan, keeps memory for each frame it has drawn and allows one window a process.
"""

import sys
from multiprocessing.connection import Connection


def main(descriptor: int):
    """Messages in: (picture, camera), or None for the end. Out: "ready" or an error's text, then images as bytes."""
    pipe = Connection(descriptor)
    size = pipe.recv()
    try:
        import taichi as ti

        from .canvas import Canvas

        ti.init(arch=ti.cpu, log_level=ti.ERROR, cpu_max_num_threads=1)
        canvas = Canvas(size)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    pipe.send("ready")
    while (message := pipe.recv()) is not None:
        canvas.draw(*message)
        pipe.send_bytes(canvas.image().tobytes())


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
