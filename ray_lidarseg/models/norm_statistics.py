"""Running statistics of batch norms: measured again for weights they were not gathered with, or kept from harm."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import PointBatch

Statistics = dict[str, Tensor]
"""Buffers of a module's batch norms by their names in its ``state_dict``."""


def read_statistics(module: nn.Module) -> Statistics:
    """Copies of all batch-norm buffers of a module."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer.detach().clone()
        for prefix, norm in module.named_modules()
        if isinstance(norm, _BatchNorm)
        for name, buffer in norm.named_buffers(recurse=False)
    }


@torch.no_grad()
def write_statistics(module: nn.Module, statistics: Statistics) -> None:
    """Puts the values of ``read_statistics`` back, in place.

    Raises:
        KeyError: The module has no buffer of that name.
    """
    buffers = dict(module.named_buffers())
    for name, value in statistics.items():
        buffers[name].copy_(value)


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Whatever the block does to the batch-norm buffers of a module is undone after it."""
    before = read_statistics(module)
    try:
        yield
    finally:
        write_statistics(module, before)


@contextmanager
def lent_statistics(module: nn.Module, statistics: Statistics) -> Iterator[None]:
    """The block sees a module with these values of ``read_statistics``; afterwards it has its own again."""
    with kept_statistics(module):
        write_statistics(module, statistics)
        yield


@torch.no_grad()
def measured_statistics(model: Segmentor, batches: Iterable[PointBatch]) -> Statistics:
    """The batch-norm statistics of a model over some batches: the plain mean of the batches' own.

    Running statistics belong to the weights they were gathered with, and remember some ten batches of a few scans; a
    teacher that averages weights has gathered them with other weights altogether. All layers are measured in one pass,
    in train mode (so each layer sees what its forerunners normalised by the same batch), dropout off.

    Args:
        model: Left as it was: weights, buffers, modes.
        batches: On the model's device; those without points are passed over.

    Returns:
        What ``write_statistics`` takes; without a batch, the statistics as they are.

    Source: Averaging Weights Leads to Wider Optima (Izmailov et al., UAI 2018), section 3.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    modes, momenta = {module: module.training for module in model.modules()}, [norm.momentum for norm in norms]
    with kept_statistics(model):
        model.eval()
        seen = 0
        for batch in batches:
            if not len(batch):
                continue
            for norm in norms:
                if not seen:
                    norm.reset_running_stats()
                norm.train()
                norm.momentum = None  # torch's word for a cumulative mean
            model(batch)
            seen += 1
        measured = read_statistics(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, is_training in modes.items():
        module.training = is_training
    return measured
