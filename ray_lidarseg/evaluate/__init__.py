"""The verb `evaluate`: mIoU of a run's models on labelled prepared frames, clean and under every corruption.

Catalog positions → a Ray Data pool of actors, each with the models loaded once → exact counts, summed here. The result
does not depend on how many actors there are.
"""

from ray_lidarseg.evaluate.clean import evaluate
from ray_lidarseg.evaluate.corrupted import evaluate_robustness
from ray_lidarseg.evaluate.score_tables import describe, describe_robustness

__all__ = ["describe", "describe_robustness", "evaluate", "evaluate_robustness"]
