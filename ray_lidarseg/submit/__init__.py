"""The verb ``submit``: another verb as a job on a cluster, through Ray's Jobs API."""

from ray_lidarseg.submit.job_client import follow, stop, submit

__all__ = ["follow", "stop", "submit"]
