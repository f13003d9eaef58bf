"""The verb `sweep`: the trials of a study on Ray Tune, each a run folder like any other; the same command continues."""

from ray_lidarseg.sweep.launch import sweep
from ray_lidarseg.sweep.study import list_studies

__all__ = ["list_studies", "sweep"]
