"""Run folders from strangers, or damaged: a typed error, no code run, no memory to speak of."""

import argparse
import dataclasses
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from processes import memory
from safetensors.torch import save

import taichi_sim
import tasks
from commands.runs import begin_as, open_run, task_of
from learner import LEARNERS, files, pods, settings
from learner.policy import Policy
from learner.run import Run, environment
from learner.training import Training
from taichi_sim import InputError

N = 20
CONFIG = pods.Config(epochs=2, k=4, steps=2, batch=16)
MUTATIONS = 1000


@pytest.fixture(scope="module")
def genuine(task, tmp_path_factory):
    """A run that is as it should be, half done."""
    run = Run.create(tmp_path_factory.mktemp("genuine") / "run", {})
    with pytest.raises(KeyboardInterrupt):
        LEARNERS["pods"][2](task("pendulum3d-stop", N), CONFIG, run, on_epoch=_stop)
    assert len(run.checkpoints()) == 1
    return run


def _stop(row):
    raise KeyboardInterrupt


@pytest.fixture
def run(genuine, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(genuine.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def repacked(run, change, state=lambda state: state):
    """The checkpoint with its dictionary of tensors changed."""
    tensors, metadata = run.load()
    change(tensors)
    return save(tensors, {"state": json.dumps(state(metadata))})


def header(run, change):
    """The checkpoint with the JSON of its header changed."""
    data = run.checkpoints()[-1].read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    change(head)
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


class Payload:
    """Unpickled, it leaves a mark in the working directory."""

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("mark"),))


def pickled(run):
    return pickle.dumps(Payload())


def torch_saved(run):
    path = run.path / "saved"
    torch.save({"policy/mean": Payload()}, path)
    return path.read_bytes()


def endless_header(run):
    return (2**63 - 1).to_bytes(8, "little") + b"{" * 100


def long_header(run):
    """A header of 99 MB, which the format itself would allow."""
    text = b'{"a":"' + b"x" * 99_000_000 + b'"}'
    return len(text).to_bytes(8, "little") + text


def cut_in_the_header(run):
    return run.checkpoints()[-1].read_bytes()[:100]


def cut_in_a_tensor(run):
    return run.checkpoints()[-1].read_bytes()[:-100]


def overlapping(run):
    def change(head):
        head["policy/mean"]["data_offsets"] = head["policy/layers.0.bias"]["data_offsets"]

    return header(run, change)


def outside(run):
    def change(head):
        begin, end = head["policy/mean"]["data_offsets"]
        head["policy/mean"]["data_offsets"] = [begin + 2**40, end + 2**40]

    return header(run, change)


def immense(run):
    def change(head):
        head["policy/mean"]["shape"] = [2**62]

    return header(run, change)


def unknown_dtype(run):
    def change(head):
        head["policy/mean"]["dtype"] = "O"

    return header(run, change)


def wrong_shape(run):
    return repacked(run, lambda t: t.update({"policy/layers.1.weight": torch.zeros(256, 255)}))


def wrong_dtype(run):
    return repacked(run, lambda t: t.update({"policy/layers.1.weight": torch.zeros(256, 256, dtype=torch.float16)}))


def weights_not_finite(run):
    return repacked(run, lambda t: t["policy/layers.0.bias"].fill_(torch.nan))


def moments_not_finite(run):
    return repacked(run, lambda t: t["adam/policy/layers.0.bias/exp_avg"].fill_(torch.inf))


def missing_tensor(run):
    return repacked(run, lambda t: t.pop("policy/layers.2.weight"))


def memory_of_another_task(run):
    return repacked(run, lambda t: t.update({"memory/000/observations": torch.zeros(80, 3)}))


def negative_epoch(run):
    return repacked(run, lambda t: None, lambda state: state | {"epoch": -1})


def seconds_not_a_number(run):
    return repacked(run, lambda t: None, lambda state: state | {"seconds": float("nan")})


def epoch_as_text(run):
    return repacked(run, lambda t: None, lambda state: state | {"epoch": "__import__('os')"})


def deep_state(run):
    tensors, _ = run.load()
    return save(tensors, {"state": "[" * 100_000})


def no_state(run):
    return save(run.load()[0])


def empty(run):
    return b""


CRAFTED = (
    pickled,
    torch_saved,
    endless_header,
    long_header,
    cut_in_the_header,
    cut_in_a_tensor,
    overlapping,
    outside,
    immense,
    unknown_dtype,
    wrong_shape,
    wrong_dtype,
    weights_not_finite,
    moments_not_finite,
    missing_tensor,
    memory_of_another_task,
    negative_epoch,
    seconds_not_a_number,
    epoch_as_text,
    deep_state,
    no_state,
    empty,
)


def peak():
    """MiB that this process has held at most since `reset_peak`."""
    rows = pathlib.Path("/proc/self/status").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("VmHWM:")) / 1024


def reset_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.parametrize("craft", CRAFTED, ids=lambda craft: craft.__name__)
def test_a_crafted_checkpoint_is_refused(task, run, monkeypatch, craft):
    """By the policy's reader, or else by training; memory at most twice the file and 50 MB."""
    made = task("pendulum3d-stop", N)
    policy, data = Policy(made, 0), craft(run)
    path, size = run.checkpoints()[-1], len(data) / 2**20
    path.write_bytes(data)
    del data
    monkeypatch.chdir(run.path)
    before = memory("self")
    reset_peak()
    with pytest.raises(InputError) as refused:
        tensors, _ = run.load()
        files.load_module(policy, "policy", tensors)
        LEARNERS["pods"][2](made, CONFIG, run)
    assert peak() - before < 2 * size + 50
    assert not (run.path / "mark").exists() and "\n" not in str(refused.value)


def link(run):
    target = run.path / "elsewhere"
    run.checkpoints()[-1].rename(target)
    (run.path / "checkpoints" / "000001.safetensors").symlink_to(target)


def pipe(run):
    run.checkpoints()[-1].unlink()
    os.mkfifo(run.path / "checkpoints" / "000001.safetensors")


def folder(run):
    run.checkpoints()[-1].unlink()
    (run.path / "checkpoints" / "000001.safetensors").mkdir()


def device(run):
    run.checkpoints()[-1].unlink()
    (run.path / "checkpoints" / "000001.safetensors").symlink_to("/dev/zero")


@pytest.mark.parametrize("replace", (link, pipe, folder, device), ids=lambda f: f.__name__)
def test_what_is_no_file_of_its_own_is_not_read(run, replace):
    """At once: a pipe, say, would wait for ever."""
    replace(run)
    with pytest.raises(InputError, match="run: expected a readable checkpoint"):
        run.load()


def test_names_of_tensors_are_names_and_no_paths(task, run):
    """A tensor called like a path elsewhere is not looked at, and nothing is written there."""
    data = repacked(run, lambda t: t.update({"policy/../../../mark": torch.zeros(1), "/tmp/mark": torch.zeros(1)}))
    run.checkpoints()[-1].write_bytes(data)
    before = sorted(run.path.parent.rglob("*"))
    Training(task("pendulum3d-stop", N), CONFIG, run, lambda row: None)
    assert sorted(p for p in run.path.parent.rglob("*") if p.name not in ("log.csv", ".lock")) == [
        p for p in before if p.name not in ("log.csv", ".lock")
    ]


def mutated(data: bytes, random) -> bytes:
    """A few bytes changed, cut, doubled or exchanged, most of them in the header."""
    data = bytearray(data)
    size = 8 + int.from_bytes(data[:8], "little")
    for _ in range(random.integers(1, 6)):
        end = size if random.random() < 0.7 else len(data)
        at, length = int(random.integers(0, max(1, end))), int(random.integers(1, 9))
        kind = random.integers(0, 4)
        if kind == 0:
            data[at : at + length] = random.bytes(length)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + 1] = bytes([data[at % len(data)] ^ (1 << int(random.integers(0, 8)))])
    return bytes(data)


def test_a_thousand_damaged_checkpoints_are_read_or_refused(task, run):
    """And one that is read has weights of the right shape, all finite."""
    policy, path = Policy(task("pendulum3d-stop", N), 0), run.checkpoints()[-1]
    data, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, random))
        try:
            tensors, state = files.read_tensors(path)
            files.load_module(policy, "policy", tensors)
            assert isinstance(state, dict)
            assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())
        except InputError:
            refused += 1
    assert MUTATIONS / 2 < refused < MUTATIONS


@pytest.mark.parametrize("change", (
    {"task": "../../tasks"}, {"task": ["os"]}, {"learner": "os.system"}, {"learner": None}, {"horizon": 1e9},
    {"horizon": "150"}, {"config": [1]}, {"config": {"k": "8"}}, {"config": {"__class__": 1}}, {"environment": {}},
    {"environment": {"threads": 1, "precision": "float16", "device_type": "cpu"}}, {"definition": {}}, {"version": "1"},
    {"environment": {"threads": -1, "precision": "float64", "device_type": "cpu"}},
    {"environment": {"threads": 1, "precision": "float64", "device_type": "/dev/mem"}},
))  # fmt: skip
def test_a_config_that_says_something_else_is_refused(tmp_path, change):
    """By the commands' reader, before anything of the run is used."""
    config = genuine_config()
    read(tmp_path, config)
    with pytest.raises(InputError) as refused:
        read(tmp_path, config | change)
    assert "\n" not in str(refused.value)


def genuine_config():
    taichi_sim.init("cpu")
    made = tasks.make("pendulum3d-stop")
    config = {"version": 1, "task": made.name, "horizon": made.N, "learner": "pods"}
    config |= {"config": dataclasses.asdict(CONFIG), "definition": made.definition(), "environment": environment()}
    return json.loads(json.dumps(config))


JUNK = (
    None,
    -1,
    0,
    0.5,
    1e308,
    2**70,
    float("nan"),
    True,
    "",
    "x",
    "a\nb",
    "../..",
    "__import__('os')",
    [],
    [1],
    {},
    {"a": 1},
)


def test_five_hundred_configs_with_a_value_replaced_are_read_or_refused(tmp_path):
    """Anywhere in the file, by anything; never another error, and one that is read has a setting or another changed."""
    random, refused = np.random.default_rng(0), 0
    for _ in range(500):
        config = genuine_config()
        place, key = config, None
        while key is None or (isinstance(place[key], dict) and place[key] and random.random() < 0.8):
            place = place if key is None else place[key]
            key = list(place)[int(random.integers(len(place)))]
        place[key] = JUNK[int(random.integers(len(JUNK)))]
        try:
            read(tmp_path, config)
        except InputError:
            refused += 1
    assert 300 < refused < 500


def read(folder, config):
    """All that a command takes from a config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    found = open_run(folder)
    begin_as(found, argparse.Namespace(device="auto", precision="float64", threads=None))
    task_of(found)
    settings.from_dict(LEARNERS[found.config["learner"]][0], found.config["config"])
