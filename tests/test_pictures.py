"""What both renderers draw, and a drawing process that dies."""

import dataclasses
import os
import signal

import matplotlib.colors
import numpy as np
import pytest
from processes import children
from scenes import SIZE, copies, every_angle, hung

import tasks
from taichi_sim import InputError
from viz import renderer, stage
from viz.camera import Camera
from viz.picture import Balls, Picture, Surface
from viz.plain import BACKGROUND
from viz.scene import PERFORMERS, Scene, lifted


def coloured(image, colour):
    """(height, width) bool, the pixels of that hue, whatever light falls on them."""
    hue, saturation, _ = np.moveaxis(matplotlib.colors.rgb_to_hsv(image / 255.0), -1, 0)
    hue = hue - matplotlib.colors.rgb_to_hsv(colour)[0]
    return (np.abs((hue + 0.5) % 1 - 0.5) < 8 / 360) & (saturation > 0.25)


def near(mask, pixels):
    """(n,) bool, whether `mask` holds within a pixel of each of `pixels` (n, 2)."""
    found = []
    for x, y in np.floor(pixels).astype(int):
        found.append(mask[max(0, y - 1) : max(0, y + 2), max(0, x - 1) : max(0, x + 2)].any())
    return np.array(found)


def middle(mask):
    """The centre of gravity (x, y) of the pixels where `mask` holds."""
    return np.argwhere(mask)[:, ::-1].mean(0) + 0.5


@pytest.fixture(scope="module")
def plain():
    return renderer.PlainRenderer(SIZE)


RAINBOW = matplotlib.colors.hsv_to_rgb([(h, 0.8, 0.8) for h in (0.0, 0.2, 0.4, 0.6, 0.8)])


def beads(centres, radius=0.05):
    """A picture of balls in five colours over a scrap of floor."""
    corners = np.array([[-0.01, 5.0, -3.0], [0.01, 5.0, -3.0], [0.0, 5.1, -3.0]])
    floor = Surface(corners, np.array([[0, 1, 2]]), np.full((3, 3), 0.9))
    return Picture((floor,), (), (Balls(np.array(centres), radius, RAINBOW[: len(centres)]),), (), (), (), ())


@pytest.mark.parametrize("kind", ["vulkan", "plain"])
@every_angle
def test_balls_lie_where_the_camera_says_and_are_as_large(request, kind, azimuth, elevation):
    draw = request.getfixturevalue(kind).draw
    camera = Camera((0.1, 0.0, 0.2), 3.0, azimuth, elevation)
    centres = [[0.1, 0.0, 0.2], [0.8, 0.5, 0.5], [-0.5, 0.6, -0.1], [0.2, -0.7, -0.3], [-0.3, -0.4, 0.7]]
    image = draw(beads(centres), camera)
    assert image.shape == (270, 480, 3) and image.dtype == np.uint8
    pixels, depth = camera.project(np.array(centres), SIZE)
    radius = 0.05 * 270 / (2 * np.tan(np.radians(camera.fov) / 2) * depth)
    for pixel, colour, r in zip(pixels, RAINBOW, radius, strict=True):
        mask = coloured(image, colour)
        assert np.linalg.norm(middle(mask) - pixel) < 1.0
        assert np.sqrt(mask.sum() / np.pi) == pytest.approx(r, abs=0.7)


def test_the_nearer_ball_hides_the_farther_one(vulkan, plain):
    camera = Camera((0.0, 0.0, 0.0), 3.0)
    for pen in (vulkan, plain):
        for order in (1, -1):  # whatever comes first
            image = pen.draw(beads([[0.0, -0.5 * order, 0.0], [0.0, 0.5 * order, 0.0]]), camera)
            assert near(coloured(image, RAINBOW[0 if order == 1 else 1]), np.array([[240.0, 135.0]])).all()
            assert not near(coloured(image, RAINBOW[1 if order == 1 else 0]), np.array([[240.0, 135.0]])).any()


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_is_drawn_as_it_stands_by_both_renderers(task, vulkan, plain, name):
    made = task(name)
    states = made.start((5,), 2)
    scene = stage.scene(made, [1])
    camera = stage.camera(made, scene, SIZE[0] / SIZE[1])
    colour, masks = PERFORMERS[1], {}
    for pen in (vulkan, plain):
        frames = []
        for x, p in ((states.x[:1], states.p[:1]), (states.x[1:], states.p[1:])):
            image = pen.draw(scene.picture(x, p), camera)
            frames.append(image)
            pixels, _ = camera.project(lifted(x[0].numpy()), SIZE)
            grips, _ = camera.project(lifted(p[0].numpy()), SIZE)
            bare = np.linalg.norm(pixels[:, None] - grips[None], axis=-1).min(1) > 8  # not below a handle
            assert bare.sum() >= max(1, 0.8 * len(pixels))
            assert near(coloured(image, colour), pixels[bare]).all()
            assert np.abs(image[:4, :4] / 255.0 - BACKGROUND).max() < 0.01 and image.std() > 5
        assert (np.abs(frames[0].astype(int) - frames[1]).max(-1) > 30).mean() > 1e-3
        aside = states.x[:1].clone()
        aside[..., 0] += 0.6 * scene.size
        there, here = (camera.project(lifted(x[0].numpy()), SIZE)[0] for x in (aside, states.x[:1]))
        assert np.linalg.norm(there[:, None] - here[None], axis=-1).min() > 25
        away = pen.draw(scene.picture(aside, states.p[:1]), camera)
        assert not near(coloured(away, colour), here).any()
        masks[pen] = [coloured(frame, colour) for frame in frames]
    for one_mask, other in zip(*masks.values(), strict=True):
        assert np.linalg.norm(middle(one_mask) - middle(other)) < 2.0
        assert one_mask.sum() == pytest.approx(other.sum(), rel=0.2)


def spoilt(part):
    """`part` of a picture, or a tuple of parts, with NaN for every number."""
    if isinstance(part, tuple):
        return tuple(spoilt(one) for one in part)
    arrays = {name: value for name, value in vars(part).items() if isinstance(value, np.ndarray)}
    arrays.pop("triangles", None)
    return dataclasses.replace(part, **{name: np.full(value.shape, np.nan) for name, value in arrays.items()})


def test_a_picture_without_numbers_leaves_those_after_it_as_they_are(task, vulkan):
    """GGUI takes memory it never wrote times 0 where a mesh has no place of its own: in every second process a
    surface vanished now and then, where a NaN had been before."""
    names = ("cloth-lay", "cable2d-origin", "rope3d-origin", "double3d-origin")
    scenes = [stage.scene(task(name), [1]) for name in names]
    camera = stage.camera(task("cloth-lay"), scenes[0], SIZE[0] / SIZE[1])
    good, *_ = pictures = [one.picture(copies(one.system.rest, 1), copies(one.system.home, 1)) for one in scenes]
    bad = [dataclasses.replace(one, **{name: spoilt(part) for name, part in vars(one).items()}) for one in pictures]
    pen = renderer.VulkanRenderer(SIZE)  # not `vulkan`: in memory as it is after a start the NaN comes to lie there
    expected = pen.draw(good, camera)
    for n in range(1, 5):
        for other in bad[1:]:
            for picture in (bad[0], other, bad[0], other)[:n]:
                pen.draw(picture, camera)
            assert np.array_equal(pen.draw(good, camera), expected)
    pen.close()


def test_performers_are_told_apart(vulkan, plain):
    system = hung(2)
    scene = Scene(system, system.rest, [-0.3, -0.6], [0.3, 0.1], np.arange(len(PERFORMERS)))
    n = len(PERFORMERS)
    x, p = copies(system.rest, n), copies(system.home, n)
    camera = Camera.fitting(scene.low, scene.high, SIZE[0] / SIZE[1])
    pixels, _ = camera.project(lifted(system.rest) + scene.places, SIZE)
    for pen in (vulkan, plain):
        image = pen.draw(scene.picture(x, p), camera)
        found = [near(coloured(image, colour), pixels).tolist() for colour in PERFORMERS]
        assert np.array_equal(found, np.eye(n, dtype=bool))


def test_the_drawing_process_is_replaced_and_nobody_sees_it(vulkan, monkeypatch):
    monkeypatch.setattr(renderer, "CHUNK", 3)
    camera, picture, before = Camera((0.0, 0.0, 0.0), 3.0), beads([[0.0, 0.0, 0.0]]), children("viz.worker")
    pen, images, pids = renderer.VulkanRenderer((64, 48)), [], []
    try:
        for _ in range(7):
            images.append(pen.draw(picture, camera))
            pids += children("viz.worker") - before
    finally:
        pen.close()
    assert len(pids) == 7 and len(set(pids)) == 3 and pids[:3] == pids[:1] * 3 and pids[3:6] == pids[3:4] * 3
    assert all(np.array_equal(image, images[0]) for image in images) and coloured(images[0], RAINBOW[0]).any()
    assert children("viz.worker") == before


def test_a_drawing_process_that_dies_is_replaced_by_matplotlib(vulkan):
    camera, picture, before, said = Camera((0.0, 0.0, 0.0), 3.0), beads([[0.0, 0.0, 0.0]]), children("viz.worker"), []
    with renderer.Renderer((64, 48), notice=said.append) as pen:
        first = pen.draw(picture, camera)
        assert not pen.plain and said == []
        (pid,) = children("viz.worker") - before
        os.kill(pid, signal.SIGKILL)
        second, third = pen.draw(picture, camera), pen.draw(picture, camera)
        assert pen.plain and len(said) == 1
    assert "no Vulkan (the drawing process ended with code -9): drawn by matplotlib" in said[0] and "\n" not in said[0]
    assert np.array_equal(second, third)
    for image in (first, second):
        assert np.linalg.norm(middle(coloured(image, RAINBOW[0])) - (32, 24)) < 1.0


def test_a_drawing_process_that_dies_is_an_error_where_vulkan_is_asked_for(vulkan):
    before = children("viz.worker")
    with renderer.Renderer((64, 48), "vulkan") as pen:
        (pid,) = children("viz.worker") - before
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(renderer.NoVulkan, match="ended with code -9"):
            pen.draw(beads([[0.0, 0.0, 0.0]]), Camera((0.0, 0.0, 0.0), 3.0))


@pytest.fixture
def no_vulkan(monkeypatch):
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, "/nonexistent")


def test_without_vulkan_there_is_one_notice_and_a_picture(no_vulkan):
    said = []
    with renderer.Renderer((64, 48), notice=said.append) as pen:
        images = [pen.draw(beads([[0.0, 0.0, 0.0]]), Camera((0.0, 0.0, 0.0), 3.0)) for _ in range(2)]
        assert pen.plain
    assert len(said) == 1 and said[0].startswith("no Vulkan (") and "\n" not in said[0]
    assert all(coloured(image, RAINBOW[0]).any() for image in images)
    with pytest.raises(renderer.NoVulkan):
        renderer.Renderer((64, 48), "vulkan")


def test_drawing_leaves_its_files_in_a_folder_that_goes_away(vulkan):
    """ImGui writes its layout into the working directory, after five seconds."""
    before = children("viz.worker")
    with renderer.Renderer((64, 48), "vulkan"):
        (pid,) = children("viz.worker") - before
        folder = os.readlink(f"/proc/{pid}/cwd")
        assert not os.path.samefile(folder, os.getcwd())
    assert not os.path.exists(folder)


def test_an_unknown_renderer_is_refused():
    with pytest.raises(InputError, match="renderer: expected one of auto, vulkan, plain, got 'opengl'"):
        renderer.Renderer((64, 48), "opengl")


def test_a_plain_renderer_starts_no_process():
    before = children("viz.worker")
    with renderer.Renderer((64, 48), "plain", notice=pytest.fail) as pen:
        assert pen.plain and children("viz.worker") == before
        assert pen.draw(beads([[0.0, 0.0, 0.0]]), Camera((0.0, 0.0, 0.0), 3.0)).shape == (48, 64, 3)
