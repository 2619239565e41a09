"""Pictures by matplotlib, where there is no Vulkan: no lights and no depth buffer, what is far is drawn first."""

from __future__ import annotations

import numpy as np

from .camera import Camera
from .picture import Picture, box_mesh, vertex_normals

BACKGROUND = (0.97, 0.98, 0.99)
LIGHT = np.array([0.3, -0.5, 0.81])


class PlainCanvas:
    """The same face as `viz.canvas.Canvas`."""

    def __init__(self, size: tuple[int, int]):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.size = size
        self._figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, facecolor=BACKGROUND)
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1))

    def draw(self, picture: Picture, camera: Camera):
        from matplotlib.collections import EllipseCollection

        axes, scale = self._axes, self.size[1] / 720
        axes.clear()
        axes.set(xlim=(0, self.size[0]), ylim=(self.size[1], 0))
        axes.axis("off")
        for surface in picture.floors:
            self._faces(surface.vertices, vertex_normals(surface), surface.colours, surface.triangles, camera, 0)
        for lines in picture.floor_lines:
            self._segments(lines.ends, lines.colours, lines.width * scale, camera, 1)
        for surface in picture.surfaces:
            self._faces(surface.vertices, vertex_normals(surface), surface.colours, surface.triangles, camera, 2)
        for lines in picture.lines:
            self._segments(lines.ends, lines.colours, lines.width * scale, camera, 3)
        for tubes in picture.tubes:
            width = 2 * tubes.radius * self._pixels_per_metre(tubes.ends.reshape(-1, 3), camera)
            self._segments(tubes.ends, tubes.colours, max(1.0, width), camera, 4)
        for boxes in picture.boxes:
            self._faces(*box_mesh(boxes), camera, 5)
        for balls in picture.balls:
            if len(balls.centres):
                pixels, depth = camera.project(balls.centres, self.size)
                far = np.argsort(-depth)
                width = 2 * balls.radius * self.size[1] / (2 * np.tan(np.radians(camera.fov) / 2) * depth[far])
                axes.add_collection(
                    EllipseCollection(
                        width,
                        width,
                        np.zeros(len(far)),
                        units="xy",
                        offsets=pixels[far],
                        transOffset=axes.transData,
                        facecolors=balls.colours[far],
                        zorder=6,
                    )
                )

    def image(self) -> np.ndarray:
        """The frame drawn last, (height, width, 3) uint8."""
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _faces(self, vertices, normals, colours, triangles, camera, order):
        from matplotlib.collections import PolyCollection

        pixels, depth = camera.project(vertices, self.size)
        seen = (depth[triangles] > 0).all(1)
        far = np.argsort(-depth[triangles].mean(1))
        far = far[seen[far]]
        shade = 0.65 + 0.35 * np.abs(normals[triangles[far]].mean(1) @ LIGHT)
        faces = np.clip(colours[triangles[far]].mean(1) * shade[:, None], 0, 1)
        self._axes.add_collection(
            PolyCollection(pixels[triangles[far]], facecolors=faces, edgecolors=faces, linewidths=0.3, zorder=order)
        )

    def _segments(self, ends, colours, width, camera, order):
        from matplotlib.collections import LineCollection

        if not len(ends):
            return
        pixels, depth = camera.project(ends.reshape(-1, 3), self.size)
        depth = depth.reshape(-1, 2).min(1)
        far = np.argsort(-depth)
        far = far[depth[far] > 0]
        self._axes.add_collection(
            LineCollection(
                pixels.reshape(-1, 2, 2)[far],
                colors=colours[far],
                linewidths=0.72 * width,
                capstyle="round",
                zorder=order,
            )
        )

    def _pixels_per_metre(self, points, camera):
        depth = camera.project(points, self.size)[1].mean() if len(points) else 1.0
        return self.size[1] / (2 * np.tan(np.radians(camera.fov) / 2) * depth)
