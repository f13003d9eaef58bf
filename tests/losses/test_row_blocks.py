import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from ray_lidarseg.losses.contrastive import info_nce, tolerant_info_nce
from ray_lidarseg.losses.relational import cross_modal, intra_modal, similarity
from ray_lidarseg.losses.row_blocks import PairedRows, paired_rows, sum_by_rows

LOSSES = {
    "info_nce": info_nce,
    "tolerant": tolerant_info_nce,
    "cosine": similarity,
    **{f"cross {name}": lambda pairs, name=name: cross_modal(pairs, name) for name in ("l1", "mse", "kl")},
    **{f"intra {name}": lambda pairs, name=name: intra_modal(pairs, name) for name in ("l1", "mse", "kl", "rkd")},
}
SIZES = (5, 3)


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        functional.normalize(torch.randn(count, 6, generator=generator, dtype=torch.float64)) for _ in range(2)
    )


def test_a_sum_of_products_by_hand():
    values = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    total = sum_by_rows(lambda block, v: (v[block] @ v.T).sum(), range(3), 3, values, block_rows=2)
    (5 * total).backward()
    assert float(total) == 36.0  # (1 + 2 + 3)²
    assert values.grad.tolist() == [[60.0]] * 3  # 5 · 2 · 6
    with torch.no_grad():
        assert float(sum_by_rows(lambda block, v: v[block].sum(), range(1, 3), 3, values)) == 5.0
    assert float(sum_by_rows(lambda block, v: v[block].sum(), range(0), 3, values)) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_blocks_change_neither_value_nor_gradient(name, monkeypatch):
    found = []
    for pairs_at_once in (1 << 22, 1, 30):  # one block, one row a block, three rows
        monkeypatch.setattr("ray_lidarseg.losses.row_blocks._BLOCK_PAIRS", pairs_at_once)
        points, images = rows(10)
        points.requires_grad_()
        loss = LOSSES[name](paired_rows(points, images))
        loss.backward()
        found.append((loss.detach(), points.grad))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-10, atol=1e-14)
    assert found[0][1].abs().sum() > 0


def test_half_precision_rows_are_widened_and_images_get_no_gradient():
    points, images = (value.bfloat16().requires_grad_() for value in rows(4))
    pairs = paired_rows(points, images)
    assert pairs.points.dtype == pairs.images.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cross_modal(pairs).backward()
    assert images.grad is None
    assert points.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("count", [0, 1])
def test_no_pair_and_one_pair_are_finite_with_a_gradient(name, count):
    points, images = rows(count)
    points.requires_grad_()
    loss = LOSSES[name](paired_rows(points, images))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(points.grad).all()
    assert count or float(loss) == 0.0


def _worker(rank: int, port: int, queue) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    first = sum(SIZES[:rank])
    answers = {}
    for name, loss in LOSSES.items():
        everything = rows(sum(SIZES))
        points, images = (value[first : first + SIZES[rank]].clone() for value in everything)
        points.requires_grad_()
        value = loss(paired_rows(points, images, gather=True))
        value.backward()
        answers[name] = (float(value), points.grad.tolist())
    queue.put((rank, answers))
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_that_gather_are_one_process_with_all_rows():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    answers = dict(queue.get() for _ in workers)
    for worker in workers:
        worker.join(60)
    for name, loss in LOSSES.items():
        points, images = rows(sum(SIZES))
        points.requires_grad_()
        expected = loss(paired_rows(points, images))
        expected.backward()
        values, gradients = zip(*(answers[rank][name] for rank in range(2)), strict=True)
        assert sum(values) / 2 == pytest.approx(float(expected), rel=1e-9), name
        gathered = torch.tensor([row for part in gradients for row in part], dtype=torch.float64) / 2  # as DDP averages
        torch.testing.assert_close(gathered, points.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_without_other_ranks_gathering_does_nothing():
    points, images = rows(3)
    pairs = paired_rows(points, images, gather=True)
    assert isinstance(pairs, PairedRows)
    assert (pairs.own, pairs.scale, len(pairs)) == (range(3), 1.0, 3)
