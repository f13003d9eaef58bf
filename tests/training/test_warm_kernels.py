"""Kernels compiled by one process of a node: nothing of the run may change by it, and every rank has to wait."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from ray_lidarseg.models.minkunet import MinkUNet
from ray_lidarseg.sparse.build import compiles_kernels
from ray_lidarseg.training import trainer as trainers
from ray_lidarseg.training import warm_kernels as warming
from ray_lidarseg.training.loop import Ranks
from ray_lidarseg.training.trainer import Trainer, train_alone
from ray_lidarseg.training.warm_kernels import warm_kernels
from tests.training.prepared_walls import walls_recipe, write_walls

CPU = torch.device("cpu")
_SPARSE = {"model": {"name": "minkunet", "width_factor": 0.125, "voxel_size_m": 0.5}, "sparse.backend": "torch"}


@pytest.fixture(scope="module")
def walls(tmp_path_factory) -> str:
    return write_walls(str(tmp_path_factory.mktemp("prepared")))


@contextmanager
def forwards(monkeypatch) -> Iterator[list[tuple[bool, bool]]]:
    """(whether training, whether a gradient is wanted) of every forward of a MinkUNet."""
    seen, forward = [], MinkUNet.forward

    def spy(self, *arguments):
        seen.append((self.training, torch.is_grad_enabled()))
        return forward(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(MinkUNet, "forward", spy)
        yield seen


def made(walls, tmp_path, **changes) -> Trainer:
    recipe = walls_recipe(walls, **{key.replace(".", "__"): value for key, value in {**_SPARSE, **changes}.items()})
    return train_alone(recipe, str(tmp_path / "run"))


def test_the_first_rank_of_a_node_warms_a_copy_and_nothing_changes(walls, tmp_path, monkeypatch):
    trainer = made(walls, tmp_path)
    student, (scans, _) = trainer.loop.method.student.train(), trainer._steps[0][0]
    before = {name: value.clone() for name, value in student.state_dict().items()}
    random = torch.get_rng_state()
    with forwards(monkeypatch) as seen:
        warm_kernels(student, scans, None, Ranks(), CPU)
    assert seen == [(False, True)]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert student.training
    assert torch.equal(random, torch.get_rng_state())


def test_other_ranks_of_the_node_only_wait(walls, tmp_path, monkeypatch):
    trainer, waited = made(walls, tmp_path), []
    monkeypatch.setattr(Ranks, "least", lambda self, number, device: waited.append(self.local_rank))
    with forwards(monkeypatch) as seen:
        warm_kernels(trainer.loop.method.student, trainer._steps[0][0][0], None, Ranks(1, 2, 1), CPU)
    assert (seen, waited) == ([], [1])


def test_a_run_warms_once_where_its_backend_compiles_and_trains_alike(walls, tmp_path, monkeypatch):
    plain = made(walls, tmp_path / "plain").loop.method.state_dict()
    calls = []
    spy = lambda *arguments: calls.append(arguments[1].num_scans) or warming.warm_kernels(*arguments)  # noqa: E731
    monkeypatch.setattr(trainers, "warm_kernels", spy)
    made(walls, tmp_path / "other")
    assert calls == []
    monkeypatch.setattr(trainers, "compiles_kernels", lambda backend: True)
    warmed = made(walls, tmp_path / "warmed").loop.method.state_dict()
    assert len(calls) == 1
    assert all(torch.equal(value, plain[name]) for name, value in warmed.items())


def test_only_triton_compiles_as_it_goes():
    assert [compiles_kernels(name) for name in ("torch", "spconv", "spconv-triton", "torchsparse")] == [
        False, False, True, False,
    ]  # fmt: skip
    assert not compiles_kernels("auto")  # torch, on a machine without a GPU
