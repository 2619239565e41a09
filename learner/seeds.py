"""The one path of randomness: every random number is a function of (purpose, seed, epoch)."""

import numpy as np

# Purposes. 0 makes the test states (tasks.TEST_SEED), 1 the observation scale (policy.SCALE_SEED), 6 the motions of
# tasks.stress, 10 the start states that an environment draws by itself (tasks.environment.EPISODES).
STARTS, BATCHES, MOTIONS = 2, 3, 4
VALIDATION_SEED = (5,)  # the start states whose mean return is logged every epoch
NETWORKS, NOISE, REPLAY = 7, 8, 9  # critics' first weights; noise on actions; which samples are learnt from


def starts(seed: int, epoch: int) -> tuple[int, ...]:
    """For `Task.start`."""
    return (STARTS, seed, epoch)


def number(purpose: int, seed: int, epoch: int) -> int:
    """A 63-bit seed for a torch.Generator."""
    return int(np.random.SeedSequence((purpose, seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
