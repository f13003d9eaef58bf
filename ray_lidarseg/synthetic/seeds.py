"""Where all randomness comes from: one generator per (seed, scene, frame, sensor)."""

import numpy as np

VERSION = 2
"""Version of the generator: raised whenever the same seed gives other data."""


def generator(*key: int) -> np.random.Generator:
    """The one generator of (seed, scene, frame, sensor)."""
    return np.random.default_rng([VERSION, *key])


def stratified(seed: int, index: int, feature: int) -> float:
    """A number in [0, 1) for one feature of one scene, spread evenly over the scenes of a seed.

    A rare class is then in every second or third scene and never in none; scenes 2 k and 2 k + 1 differ by a half, so
    that also two scenes (nuScenes mini_val) seldom miss a class together.
    """
    start = np.random.default_rng([VERSION, seed, 7, feature]).random()
    return float((start + 0.5 * (index % 2) + 0.31 * (index // 2)) % 1)
