"""What fresh processes give: the same training, bit for bit, with whatever cache of kernels there is."""

import os
import shutil
import subprocess
import sys

import pytest
from processes import ENVIRONMENT, PODS, pods

from learner.run import Run

TRAIN = ("train", "pendulum2d-stop", "--k", "16", "--steps", "10", "--batch", "64", "--horizon", "20", "--epochs", "2")


def test_three_fresh_processes_train_the_same_policy(tmp_path):
    """Every tensor of the last checkpoint, with a fixed number of threads."""
    found = []
    for n in range(3):
        assert pods(*TRAIN, "--threads", "1", "--run", f"run{n}", cwd=tmp_path).returncode == 0
        tensors, _ = Run.open(tmp_path / f"run{n}").load()
        found.append({name: tensor.numpy().tobytes() for name, tensor in tensors.items()})
    assert found[0] == found[1] == found[2] and len(found[0]) > 20


STEP = """
import torch
import taichi_sim
from taichi_sim import Builder, Simulator

taichi_sim.init("cpu", threads=1)
b = Builder("pendulum", dim=2)
b.cable(b.handle((0.0, 0.0), axes="x"), b.point((0.0, -0.5), mass=0.05), stiffness=1000.0)
simulator = Simulator(b.build(), h=0.024)
rows = simulator.rollout(simulator.start(2), torch.full((2, 5, 1), 0.3, dtype=torch.float64))
assert rows.ok.all()
print(rows.x.numpy().tobytes().hex())
"""


def run_step(home):
    environment = ENVIRONMENT | {"HOME": str(home), "PYTHONPATH": os.path.dirname(PODS[1])}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A home where Taichi has left a cache, and what the step gave."""
    home = tmp_path_factory.mktemp("home")
    out, said = run_step(home)
    assert said == ""
    assert len([path for path in home.rglob("*.tic")]) >= 1
    return home, out


def test_no_place_for_a_cache_is_no_obstacle(cached):
    """HOME below a file, so that no folder can be made there, not even by root."""
    out, said = run_step("/dev/null/home")
    assert out == cached[1]
    assert "/dev/null/home/.cache/taichi/ticache" in said and "cannot be written (Not a directory)" in said


@pytest.mark.parametrize("damage", ("content", "version"))
def test_a_cache_that_is_damaged_or_of_another_version_changes_nothing(cached, tmp_path, damage):
    shutil.copytree(cached[0], tmp_path / "home")
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file() and (damage == "content" or path.name == "version_info"):
            path.write_bytes(b"9.9.9" if damage == "version" else os.urandom(300))
    assert run_step(tmp_path / "home")[0] == cached[1]
