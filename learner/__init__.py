"""Policies and learners. A learner is a `Config` and a `train(task, config, run, …) -> policy`."""

import functools

from . import bptt, gps, pods, ppo, sac, shac

# name: (config class, presets, train)
LEARNERS = {
    name: (pods.Config, pods.PRESETS, functools.partial(pods.train, find_direction=direction))
    for name, direction in pods.DIRECTIONS.items()
}
LEARNERS |= {
    name: (learner.Config, learner.PRESETS, learner.train)
    for name, learner in {"bptt": bptt, "shac": shac, "gps": gps, "ppo": ppo, "sac": sac}.items()
}
