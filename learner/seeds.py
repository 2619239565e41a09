"""The one path of randomness: every random number is a function of (purpose, seed, epoch)."""

import numpy as np

# Purposes. 0 makes the test states (tasks.TEST_SEED), 1 the observation scale (policy.SCALE_SEED).
STARTS, BATCHES, MOTIONS = 2, 3, 4
NOISE = 7  # of the controllers of guided policy search; 6 is taken by tasks.stress
VALIDATION_SEED = (5,)  # the start states whose mean return is logged every epoch


def starts(seed: int, epoch: int) -> tuple[int, ...]:
    """For `Task.start`."""
    return (STARTS, seed, epoch)


def number(purpose: int, seed: int, epoch: int) -> int:
    """A 63-bit seed for a torch.Generator."""
    return int(np.random.SeedSequence((purpose, seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
