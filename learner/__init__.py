"""Policies and learners. A learner is a `Config` and a `train(task, config, run, …) -> policy`."""

import functools

from . import pods, ppo, sac

# name: (config class, presets, train)
LEARNERS = {
    name: (pods.Config, pods.PRESETS, functools.partial(pods.train, find_direction=direction))
    for name, direction in pods.DIRECTIONS.items()
} | {
    "ppo": (ppo.Config, ppo.PRESETS, ppo.train),
    "sac": (sac.Config, sac.PRESETS, sac.train),
}
