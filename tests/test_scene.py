"""Cameras, meshes, and what a scene shows of a row."""

import numpy as np
import pytest
import systems
from scenes import SIZE, copies, every_angle, hung

import tasks
from viz.camera import FAR, NEAR, STEEPEST, Camera
from viz.picture import Boxes, Picture, Surface, Tubes, box_mesh, joined_mesh, tube_mesh, vertex_normals
from viz.scene import CONTACT, PERFORMERS, PULL, PUSH, SLACK, Scene, lifted

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


def one(system, performer=(0,), reach=1.0):
    corner = np.full(system.dim, reach)
    return Scene(system, system.rest, -corner, corner, performer)


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
