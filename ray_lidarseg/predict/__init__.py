"""The verb `predict`: labels and confidence for any scans, as resumable Ray Data work."""

from ray_lidarseg.predict.labelling import PredictReport, predict

__all__ = ["PredictReport", "predict"]
