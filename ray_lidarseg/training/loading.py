"""How the micro-batches of a run's steps come in: by loader processes, a thread beside a GPU, or the step loop."""

from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader

from ray_lidarseg.datasets.parcel import packed, unpacked
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.training.host_geometry import RepresentedSteps
from ray_lidarseg.training.loop import MicroBatches
from ray_lidarseg.training.reading_ahead import read_ahead


def loaded(
    stream: TrainSteps | RepresentedSteps, steps: range, processes: int, device: torch.device, is_local: bool
) -> Generator[MicroBatches, None, None]:
    """``stream[k]`` for each of the steps in order; they are read ahead, whoever reads.

    Args:
        stream: Of this worker.
        steps: Which.
        processes: Loader processes; without any a thread reads beside a GPU, and the step loop itself beside a CPU.
        device: Where steps compute.
        is_local: Whether the prepared frames lie in a file system.
    """
    if not processes and device.type == "cpu":
        return (stream[step] for step in steps)  # see reading_ahead for why not in a thread
    if not processes:
        return read_ahead(stream.__getitem__, steps)
    loader: DataLoader[Any] = DataLoader(
        stream,
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        collate_fn=packed,
        pin_memory=device.type == "cuda",  # of those with their geometry; what is packed has no such memory
        multiprocessing_context="fork" if is_local else "spawn",  # S3 clients do not survive a fork
    )
    return (unpacked(parcel) for parcel in loader)
