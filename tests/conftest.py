"""One start of Taichi and one compilation of each small system and each task's system for the whole test run."""

import copy
import dataclasses
import functools
import tempfile

import pytest
import systems
import torch

import taichi_sim
import tasks
from learner.policy import Policy
from viz.renderer import NoVulkan, VulkanRenderer

torch.set_num_threads(1)  # the networks are small: on a busy machine threads that wait for each other cost 100 times


@functools.cache
def _simulator(name):
    return taichi_sim.Simulator(systems.SYSTEMS[name](), 0.01)


@pytest.fixture(scope="session")
def simulator():
    """simulator(name, h): the time step is an argument of the kernels, so all h of a system share them."""
    taichi_sim.init("cpu")

    def make(name, h=0.02):
        other = copy.copy(_simulator(name))
        other.h = h
        return other

    return make


@functools.cache
def _shipped(name):
    """The tasks of one system share its simulator and its goal."""
    task, family = tasks.make(name), name.rpartition("-")[0]
    if name.endswith("-origin"):
        twin = _shipped(f"{family}-stop")
        assert (twin.h, twin.system.digest()) == (task.h, task.system.digest())
        task.__dict__.update(simulator=twin.simulator, goal=twin.goal)
    return task


@pytest.fixture(scope="session")
def task():
    """task(name, N, limit=…, reward=…, shake=…): a shipped task, or one that differs in these fields."""
    taichi_sim.init("cpu")

    @functools.cache
    def make(name, N=None, **changes):
        known = _shipped(name)
        other = dataclasses.replace(known, N=known.N if N is None else N, **changes)
        other.__dict__.update(simulator=known.simulator, goal=known.goal)
        return other

    return make


@pytest.fixture(scope="module")
def pendulum(task):
    return task("pendulum2d-origin", 30)


@pytest.fixture(scope="module")
def policy(pendulum):
    return Policy(pendulum, 0)


@pytest.fixture(scope="session")
def vulkan():
    """One process that draws, at 480x270, for the whole test run."""
    try:
        renderer = VulkanRenderer((480, 270))
    except NoVulkan as error:
        pytest.skip(f"{error}; it comes with the Debian packages libvulkan1 mesa-vulkan-drivers")
    yield renderer
    renderer.close()


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """A place of its own for temporary files, which a test must leave empty."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
