"""The verb `prepare`: an index to shards, and to layers of what image teachers say, as resumable Ray Data pipelines."""

from ray_lidarseg.prepare.estimate import estimate
from ray_lidarseg.prepare.pipeline import PrepareReport, prepare
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.prepare.status import status

__all__ = ["PrepareReport", "Teachers", "estimate", "prepare", "status"]
