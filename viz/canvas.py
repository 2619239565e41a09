"""Pictures through Taichi's GGUI (Vulkan). One canvas per process: a second one crashes; see `worker`."""

from __future__ import annotations

import numpy as np
import taichi as ti

from .camera import FAR, NEAR, Camera
from .picture import Picture, joined_mesh

BACKGROUND = (0.97, 0.98, 0.99)


class _Buffer:
    """A Taichi field that grows: GGUI draws from fields."""

    def __init__(self, make):
        self._make, self._field = make, None

    def fill(self, rows: np.ndarray):
        if self._field is None or self._field.shape[0] < len(rows):
            self._field = self._make(max(1, 2 * len(rows) if self._field is not None else len(rows)))
        padded = np.zeros((self._field.shape[0], *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        self._field.from_numpy(padded)
        return self._field


class Canvas:
    """Draws into a window of `size`, or into no window at all. Start Taichi (arch=cpu) before."""

    def __init__(self, size: tuple[int, int], title: str = "pods", show: bool = False):
        self.window = ti.ui.Window(title, size, show_window=show, vsync=show)
        self.size = size
        self._canvas, self._scene, self._camera = self.window.get_canvas(), self.window.get_scene(), ti.ui.Camera()
        self._buffers = {}
        # Without a place GGUI takes memory it never wrote times 0: where that is not a number, the mesh vanishes
        self._place = ti.Matrix.field(4, 4, ti.f32, 1)
        self._place.from_numpy(np.eye(4, dtype=np.float32)[None])

    def draw(self, picture: Picture, camera: Camera):
        """Draw into the next frame, which `image` or the window's show() then completes."""
        scene = self._scene
        self._canvas.set_background_color(BACKGROUND)
        self._camera.position(*camera.eye)
        self._camera.lookat(*camera.target)
        self._camera.up(0.0, 0.0, 1.0)
        self._camera.fov(camera.fov)
        self._camera.z_near(NEAR)
        self._camera.z_far(FAR)
        scene.set_camera(self._camera)
        scene.ambient_light((0.55, 0.55, 0.55))
        above = camera.eye + (0.0, 0.0, 2.0 * camera.distance)
        scene.point_light(pos=tuple(above), color=(0.5, 0.5, 0.5))
        vertices, normals, colours, triangles = joined_mesh(picture)
        scene.mesh_instance(
            self._vectors("mesh", vertices),
            indices=self._integers("triangles", triangles.reshape(-1)),
            normals=self._vectors("normals", normals),
            per_vertex_color=self._vectors("colours", colours),
            two_sided=True,
            transforms=self._place,
            index_count=triangles.size,
        )
        for n, lines in enumerate(picture.floor_lines + picture.lines):
            if len(lines.ends):
                scene.lines(
                    self._vectors(("line", n), lines.ends.reshape(-1, 3)),
                    width=max(1.0, lines.width * self.size[1] / 720),
                    per_vertex_color=self._vectors(("line colour", n), np.repeat(lines.colours, 2, 0)),
                    vertex_count=2 * len(lines.ends),
                )
        for n, balls in enumerate(picture.balls):
            if len(balls.centres):
                scene.particles(
                    self._vectors(("ball", n), balls.centres),
                    radius=balls.radius * self.size[1] / self.size[0],  # GGUI measures it along the width
                    per_vertex_color=self._vectors(("ball colour", n), balls.colours),
                    index_count=len(balls.centres),
                )
        self._canvas.scene(scene)

    def image(self) -> np.ndarray:
        """The frame drawn last, (height, width, 3) uint8; may be asked for once."""
        frame = self.window.get_image_buffer_as_numpy()  # (width, height, 4) float32, y up
        return (np.flipud(frame.transpose(1, 0, 2))[..., :3] * 255 + 0.5).clip(0, 255).astype(np.uint8)

    def _vectors(self, key, rows):
        buffer = self._buffers.setdefault(key, _Buffer(lambda n: ti.Vector.field(3, ti.f32, n)))
        return buffer.fill(np.ascontiguousarray(rows, dtype=np.float32))

    def _integers(self, key, rows):
        buffer = self._buffers.setdefault(key, _Buffer(lambda n: ti.field(ti.i32, n)))
        return buffer.fill(np.ascontiguousarray(rows, dtype=np.int32))
