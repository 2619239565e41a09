"""Where things lie in a picture, what a scene is made of, and that both renderers draw what the state says."""

import dataclasses
import os
import signal

import matplotlib.colors
import numpy as np
import pytest
import systems
from processes import children

import tasks
from taichi_sim import Builder, InputError
from viz import renderer, stage
from viz.camera import FAR, NEAR, STEEPEST, Camera
from viz.picture import Balls, Boxes, Picture, Surface, Tubes, box_mesh, joined_mesh, tube_mesh, vertex_normals
from viz.plain import BACKGROUND
from viz.scene import CONTACT, PERFORMERS, PULL, PUSH, SLACK, Scene, lifted

SIZE = (480, 270)
ANGLES = [(0.0, 0.0), (0.7, 0.4), (-2.5, -1.2), (3.0, 1.5)]
every_angle = pytest.mark.parametrize("azimuth, elevation", ANGLES)


# Camera


def test_a_point_lands_on_the_pixel_worked_out_by_hand():
    """90° high and 200 pixels: at a depth of z metres one metre is 100/z pixels."""
    camera = Camera((0.0, 0.0, 0.0), 2.0, fov=90.0)
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 2, -1], [0, -3, 0]], dtype=float)
    pixels, depth = camera.project(points, (400, 200))
    assert np.allclose(depth, [2, 2, 2, 4, -1], atol=1e-12)
    assert np.allclose(pixels[:4], [[200, 100], [250, 100], [200, 50], [225, 125]], atol=1e-10)


@pytest.mark.parametrize("azimuth, elevation, eye, right", [
    (0.0, 0.0, (0, -1, 0), (1, 0, 0)),
    (np.pi / 2, 0.0, (1, 0, 0), (0, 1, 0)),
    (np.pi, 0.0, (0, 1, 0), (-1, 0, 0)),
    (0.0, np.pi / 4, (0, -np.sqrt(0.5), np.sqrt(0.5)), (1, 0, 0)),
])  # fmt: skip
def test_angles_are_those_of_the_convention(azimuth, elevation, eye, right):
    camera = Camera((1.0, 2.0, 3.0), 4.0, azimuth, elevation)
    assert np.allclose(camera.eye, np.array([1, 2, 3]) + 4 * np.array(eye), atol=1e-12)
    (centre, beside, above), _ = camera.project(np.array([[1, 2, 3], np.add([1, 2, 3], right), [1, 2, 3.1]]), SIZE)
    assert beside[0] > centre[0] and beside[1] == pytest.approx(centre[1], abs=1e-9)
    assert above[1] < centre[1] and above[0] == pytest.approx(centre[0], abs=1e-9)


@every_angle
def test_the_target_lies_in_the_middle_until_the_camera_is_shifted(azimuth, elevation):
    camera = Camera((0.3, -0.2, 0.5), 1.7, azimuth, elevation)
    target = np.array([camera.target])
    (pixel,), (depth,) = camera.project(target, SIZE)
    assert np.allclose(pixel, [240, 135], atol=1e-9) and depth == pytest.approx(1.7, rel=1e-12)
    (pixel,), (depth,) = camera.shifted(0.25).project(target, SIZE)
    assert np.allclose(pixel, [240 + 0.25 * 270, 135], atol=1e-9) and depth == pytest.approx(1.7, rel=1e-12)


@every_angle
@pytest.mark.parametrize("size", [(640, 360), (200, 600)])
def test_a_fitted_box_fills_the_picture_and_no_more(azimuth, elevation, size):
    low, high = np.array([-0.3, 0.1, -1.0]), np.array([0.5, 0.4, 0.2])
    camera = Camera.fitting(low, high, size[0] / size[1], azimuth, elevation)
    corners = np.array([[x, y, z] for x in (-0.3, 0.5) for y in (0.1, 0.4) for z in (-1.0, 0.2)])

    def outside(camera):
        pixels, depth = camera.project(corners, size)
        assert (depth > 0).all()
        return np.maximum(-pixels, pixels - size).max()

    assert outside(camera) == pytest.approx(0.0, abs=1e-6)
    assert outside(camera.zoom(0.97)) > 1.0


def test_orbiting_keeps_the_distance_and_stays_upright():
    camera = Camera((0.1, 0.2, 0.3), 2.5, 0.4, 0.2)
    for turned in (camera.orbit(0.7, 0.3), camera.orbit(-9.0, 0.0), camera.orbit(0.0, 50.0), camera.orbit(1.0, -50.0)):
        assert np.linalg.norm(turned.eye - turned.target) == pytest.approx(2.5, rel=1e-12)
        assert turned.target == camera.target and abs(turned.elevation) <= STEEPEST
    assert camera.orbit(0.7, 0.3).azimuth == pytest.approx(1.1) and camera.orbit(0.7, 0.3).elevation == 0.5


def test_zooming_stays_between_the_clipping_planes():
    camera = Camera((0.0, 0.0, 0.0), 2.0)
    assert camera.zoom(0.5).distance == 1.0
    assert NEAR < camera.zoom(0.0).distance < camera.zoom(1e9).distance < FAR


# Meshes


def area(vertices, triangles):
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)


def some_tubes():
    ends = np.random.default_rng(0).normal(size=(7, 2, 3))
    ends[5] = [[0.1, 0.2, 0.3], [0.1, 0.2, 1.3]]
    ends[6] = [[0.1, 0.2, 0.3], [-0.9, 0.2, 0.3]]
    return Tubes(ends, 0.03, np.random.default_rng(1).random((7, 3)))


def test_a_tubes_surface_lies_at_its_radius_from_the_axis():
    tubes = some_tubes()
    vertices, normals, colours, triangles = tube_mesh(tubes)
    each = len(vertices) // 7
    start = np.repeat(tubes.ends[:, 0], each, 0)
    axis = np.repeat(tubes.ends[:, 1] - tubes.ends[:, 0], each, 0)
    length = np.linalg.norm(axis, axis=1, keepdims=True)
    along = ((vertices - start) * axis).sum(1, keepdims=True) / length
    out = vertices - start - along * axis / length
    assert np.allclose(np.linalg.norm(out, axis=1), 0.03, rtol=1e-12)
    assert np.allclose(out / 0.03, normals, atol=1e-9)
    assert (np.minimum(abs(along), abs(along - length)) < 1e-12).all()
    assert (colours.reshape(7, each, 3) == tubes.colours[:, None]).all()
    sides = each // 2
    lateral = sides * 2 * 0.03 * np.sin(np.pi / sides) * np.linalg.norm(tubes.ends[:, 1] - tubes.ends[:, 0], axis=1)
    assert np.allclose(area(vertices, triangles).reshape(7, -1).sum(1), lateral, rtol=1e-9)


def test_a_tube_without_length_is_drawn_without_a_warning():
    with np.errstate(all="raise"):
        assert all(np.isfinite(part).all() for part in tube_mesh(Tubes(np.ones((1, 2, 3)), 0.1, np.ones((1, 3)))))


def test_a_box_reaches_as_far_as_it_says():
    centres, half = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]), np.array([0.1, 0.2, 0.3])
    vertices, normals, _, triangles = box_mesh(Boxes(centres, half, np.ones((2, 3))))
    for n, corners in enumerate(vertices.reshape(2, -1, 3)):
        assert np.allclose(corners.min(0), centres[n] - half) and np.allclose(corners.max(0), centres[n] + half)
    assert area(vertices, triangles).reshape(2, -1).sum(1) == pytest.approx(8 * (0.02 + 0.06 + 0.03))
    outward = (vertices - np.repeat(centres, 24, 0)) / half
    assert np.allclose((normals * outward).sum(1), 1.0) and (np.linalg.norm(normals, axis=1) == 1).all()
    assert (normals[triangles] == normals[triangles[:, :1]]).all()


def test_a_flat_surface_has_one_normal():
    grid = np.array([[x, y, 0.5 * x] for x in range(4) for y in range(3)], dtype=float)
    corners = [3 * i + j for i in range(3) for j in range(2)]
    triangles = np.array([t for c in corners for t in ((c, c + 3, c + 4), (c, c + 4, c + 1))])
    normals = vertex_normals(Surface(grid, triangles, np.ones((12, 3))))
    assert np.allclose(normals, np.array([-0.5, 0, 1]) / np.sqrt(1.25), atol=1e-12)


def test_joining_meshes_keeps_every_one_of_them():
    surface = Surface(np.eye(3), np.array([[0, 1, 2]]), np.ones((3, 3)))
    box = Boxes(np.ones((2, 3)), np.full(3, 0.1), np.ones((2, 3)))
    joined, _, _, triangles = joined_mesh(Picture((surface,), (), (), (some_tubes(),), (box,), (surface,), ()))
    parts = [(surface.vertices, surface.triangles)] * 2 + [tube_mesh(some_tubes())[::3], box_mesh(box)[::3]]
    assert np.array_equal(joined[triangles], np.concatenate([vertices[faces] for vertices, faces in parts]))


# Scene


def hung(dim=3):
    """A point on a cable of 0.5 m, taut and slack within 0.1 mm."""
    b = Builder("hung", dim)
    home = (0.0,) * dim
    b.cable(b.handle(home, axes="x"), b.point((*home[1:], -0.5), mass=0.05), stiffness=1000.0, blend=1e-4)
    return b.build()


def one(system, performer=(0,), reach=1.0):
    corner = np.full(system.dim, reach)
    return Scene(system, system.rest, -corner, corner, performer)


def copies(row, n):
    return np.repeat(row[None], n, 0)


def cable(x):
    """(pieces, 2, 3) m and colours of the cable of `hung`, whose point is at x (3,)."""
    (tubes,) = one(hung()).picture(np.reshape(x, (1, 1, 3)), np.zeros((1, 1, 3))).tubes
    return tubes.ends, tubes.colours


@pytest.mark.parametrize("slope", [0.0, 0.5, -0.5, 1.2, np.pi / 2])
@pytest.mark.parametrize("share", [0.9, 0.95, 0.99])
def test_a_slack_cable_hangs_and_is_as_long_as_it_is(share, slope):
    end = share * 0.5 * np.array([np.cos(slope), 0.0, -np.sin(slope)])
    ends, colours = cable(end)
    assert np.array_equal(ends[1:, 0], ends[:-1, 1])
    assert np.allclose(ends[0, 0], 0.0) and np.allclose(ends[-1, 1], end)
    assert np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).sum() == pytest.approx(0.5, rel=0.02)
    s = np.arange(1, len(ends)) / len(ends)
    assert np.allclose(ends[1:, 0, :2], s[:, None] * end[:2]) and (ends[1:, 0, 2] < s * end[2] - 1e-3).all()
    assert np.allclose(colours, SLACK)


def test_a_taut_cable_is_straight_and_red():
    end = np.array([0.3, -0.2, -0.36])
    ends, colours = cable(end * 0.502 / np.linalg.norm(end))
    along = ends.reshape(-1, 3) @ end / np.linalg.norm(end)
    assert np.allclose(ends.reshape(-1, 3), along[:, None] * end / np.linalg.norm(end), atol=1e-12)
    assert along[-1] == pytest.approx(0.502) and (colours == colours[0]).all()
    assert colours[0, 0] > 0.6 > 1.5 * colours[0, 1:].max()  # 2 N, four times the load


def test_a_spring_is_blue_where_it_pushes_and_red_where_it_pulls():
    """Each way a little bit and twice the load: grey gives way to the full colour."""
    system = systems.spring_pendulum()
    weight = 0.05 * 9.81
    shades = []
    for share in (-2.0, -0.1, 0.0, 0.1, 2.0):
        x = np.array([[[0.0, -0.5 - share * weight / 20.0]]])
        (tubes,) = one(system).picture(x, np.zeros((1, 1, 2))).tubes
        shades.append(tubes.colours[0])
    assert np.allclose(shades[0], PUSH, atol=1e-3) and np.allclose(shades[4], PULL, atol=1e-3)
    assert np.allclose(shades[2], SLACK, atol=1e-3)
    blue = [c[2] - c[0] for c in shades]
    assert blue == sorted(blue, reverse=True) and blue[1] > 0.05 > -0.05 > blue[3]


def test_contact_is_marked_at_the_points_that_press_and_at_no_other():
    system = tasks.make("cloth-lay").system
    height = np.full((2, system.points), 0.2)
    height[0, :5] = (-2e-3, 0.0, 0.9e-3, 1.1e-3, 0.01)  # the penalty begins at a gap of 1 mm
    x = np.concatenate((np.broadcast_to(system.rest[:, :2], (2, 25, 2)), height[..., None]), -1)
    scene = one(system, (0, 0))
    picture = scene.picture(x, copies(system.home, 2))
    marks = [balls for balls in picture.balls if len(balls.colours) and (balls.colours == CONTACT).all()]
    assert len(marks) == 1 and np.allclose(marks[0].centres, x[0, :3] + scene.places[0])
    assert not any((balls.colours == CONTACT).all(1).any() for balls in picture.balls if balls is not marks[0])


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("performers, rollouts", [(1, 1), (1, 7), (2, 1), (3, 4), (5, 1), (2, 16)])
def test_copies_stand_apart_and_wear_their_performers_colour(dim, performers, rollouts):
    low, high = np.array([-0.4, -0.1, -0.6])[-dim:], np.array([0.4, 0.3, 0.1])[-dim:]
    performer = np.repeat(np.arange(performers), rollouts)
    system = hung(dim)
    scene = Scene(system, system.rest, low, high, performer)
    box = lifted(np.stack((low, high)))
    size = np.where(box[1] > box[0], box[1] - box[0], np.inf)
    gap = abs(scene.places[:, None] - scene.places[None])
    apart = (gap >= size).any(-1)
    assert (apart | np.eye(len(performer), dtype=bool)).all()
    assert np.allclose(scene.low, (box[0] + scene.places).min(0))
    assert np.allclose(scene.high, (box[1] + scene.places).max(0))
    balls = scene.picture(copies(system.rest, len(performer)), copies(system.home, len(performer))).balls[0]
    assert (balls.colours == np.array(PERFORMERS)[performer]).all()
    assert np.allclose(balls.centres, lifted(system.rest) + scene.places)


@pytest.mark.parametrize("name", ["pendulum2d-stop", "double3d-stop", "cloth-lay"])
def test_a_moved_target_moves_the_crosses_by_just_that(name):
    system = tasks.make(name).system
    scene = one(system, (0, 0))
    x, p = copies(system.rest, 2), copies(system.home, 2)
    move = np.array([0.11, -0.07, 0.03])[: system.dim]
    before, after = (scene.picture(x, p, target=t).lines for t in (0.0, move))
    moved = [n for n in range(len(before)) if not np.array_equal(before[n].ends, after[n].ends)]
    assert len(moved) == 1
    crosses = before[moved[0]].ends
    assert np.allclose(after[moved[0]].ends - crosses, lifted(move), atol=1e-15)
    middles = (lifted(system.rest)[None] + scene.places[:, None]).repeat(2, 1)
    assert np.allclose(crosses.mean(1), middles.reshape(-1, 3), atol=1e-12)


def test_trails_follow_their_paths():
    scene = one(hung(2), (0, 1))
    x, path = np.zeros((2, 1, 2)), np.random.default_rng(0).normal(size=(2, 6, 2))
    plain, trailed = (scene.picture(x, np.zeros((2, 1, 2)), trails).lines for trails in ((), [path]))
    assert len(trailed) == len(plain) + 1
    ends = trailed[-1].ends.reshape(2, 5, 2, 3)
    for n in range(2):
        points = lifted(path[n]) + scene.places[n]
        assert np.allclose(ends[n, :, 0], points[:-1]) and np.allclose(ends[n, :, 1], points[1:])


@pytest.mark.parametrize("name", ["pendulum2d-stop", "rope3d-stop"])
def test_the_floor_lies_below_everything(name):
    system = tasks.make(name).system
    scene = one(system, (0,) * 5, reach=0.7)
    (floor,) = scene.picture(copies(system.rest, 5), copies(system.home, 5)).floors
    assert (floor.vertices[:, 2] < scene.low[2]).all()
    assert (floor.vertices.min(0)[:2] <= scene.low[:2]).all() and (floor.vertices.max(0)[:2] >= scene.high[:2]).all()


def test_the_table_lies_where_the_contact_plane_is():
    scene = one(tasks.make("cloth-lay").system)
    system = scene.system
    (table,) = scene.picture(copies(system.rest, 1), copies(system.home, 1)).floors
    assert (-0.01 * scene.size < table.vertices[:, 2]).all() and (table.vertices[:, 2] <= 0).all()


# Renderers


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
