"""One start of Taichi and one compilation of each small system for the whole test run."""

import copy
import functools

import pytest
import systems

import taichi_sim


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
