"""The losses over all pairs of segments: time and memory of blocks of rows against whole matrices, one core.

`python -m tests.bench.relational_loss --json FILE [--rows 3600 14400] [--quick]`

A row is one forward and backward of a loss at N segments (SLidR's batch of 4 scenes makes 3,600, 16 scenes 14,400) of
512 features, in a process of its own; memory is what the process holds at its peak above what it held before the loss.
`dense` is the formula in plain torch, every matrix whole; `blocks` is the package. Value and gradient must agree to
1e-4 where both were measured, and blocks must need less memory above 8,000 rows (rc 1 else).
"""

import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.losses.contrastive import info_nce, tolerant_info_nce
from ray_lidarseg.losses.relational import cross_modal, intra_modal
from ray_lidarseg.losses.row_blocks import paired_rows
from tests.bench.ledger import Ledger, Row, parser, print_table

WIDTH = 512
_SMALL = 8000  # rows whose whole matrices are about as small as a block
_LARGEST_DENSE = {"relational-kl": 8000}  # whole matrices of more rows would not fit beside other work
BLOCKS = {
    "contrastive": info_nce,
    "st-contrastive": lambda pairs: tolerant_info_nce(pairs),
    "relational-l1": lambda pairs: cross_modal(pairs) + intra_modal(pairs),
    "relational-mse": lambda pairs: cross_modal(pairs, "mse") + intra_modal(pairs, "mse"),
    "relational-kl": lambda pairs: cross_modal(pairs, "kl") + intra_modal(pairs, "kl"),
    "relational-rkd": lambda pairs: cross_modal(pairs, "rkd") + intra_modal(pairs, "rkd"),
}


def main() -> int:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--rows", nargs="+", type=int, default=[3600, 14400])
    flags.add_argument("--one", nargs=3, metavar=("LOSS", "FORM", "ROWS"), help="measure in this process and print")
    args = flags.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], args.one[1], int(args.one[2]))))
        return 0
    sizes, ledger = [900] if args.quick else args.rows, Ledger(args.json)
    rows = [
        ledger.measure({"loss": loss, "form": form, "rows": count}, lambda a=(loss, form, count): _in_child(*a))
        for count in sizes
        for loss in BLOCKS
        for form in ("dense", "blocks")
        if form == "blocks" or (loss in DENSE and count <= _LARGEST_DENSE.get(loss, count))
    ]
    table = [[r["loss"], r["form"], r["rows"], f"{r['wall_s']:.2f}", f"{r['peak_mib']:.0f}"] for r in rows]
    print_table(["loss", "form", "N", "s", "MiB"], table)
    problems, gains = [], []
    for dense in (row for row in rows if row["form"] == "dense"):
        same = {"loss": dense["loss"], "rows": dense["rows"], "form": "blocks"}
        ours = next(row for row in rows if all(row[name] == value for name, value in same.items()))
        if any(abs(ours[name] / dense[name] - 1) > 1e-4 for name in ("value", "gradient_norm")):
            problems.append(f"{dense['loss']} at {dense['rows']} differs from the formula")
        if ours["peak_mib"] >= dense["peak_mib"] and dense["rows"] > _SMALL:
            problems.append(f"{dense['loss']} at {dense['rows']} needs no less memory")
        gains.append((dense["peak_mib"] / max(ours["peak_mib"], 1), dense["wall_s"] / ours["wall_s"], dense))
    memory, speed, of = max(gains, key=lambda gain: (gain[2]["rows"], gain[0]))
    print(
        f"{of['loss']} at {of['rows']} rows of {WIDTH}: {memory:.0f} x less memory, {speed:.1f} x as fast as dense; "
        f"{len(gains)} losses agree with their formulas: {'FAILED: ' + '; '.join(problems) if problems else 'ok'}"
    )
    return int(bool(problems))


def measure(loss: str, form: str, count: int) -> Row:
    """Time, peak memory, value and length of the gradient of one forward and backward."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(32, WIDTH, generator=generator)
    images = functional.normalize(centres[torch.arange(count) % 32] + torch.randn(count, WIDTH, generator=generator))
    points = functional.normalize(images + 0.05 * torch.randn(count, WIDTH, generator=generator)).requires_grad_()
    BLOCKS[loss](paired_rows(points[:8], images[:8])).backward()  # what is loaded once is not the loss's
    points.grad = None
    before = _peak_mib()
    began = time.perf_counter()
    value = DENSE[loss](points, images) if form == "dense" else BLOCKS[loss](paired_rows(points, images))
    value.backward()
    wall_s = time.perf_counter() - began
    assert points.grad is not None
    norm = float(points.grad.norm())
    return {"wall_s": wall_s, "peak_mib": _peak_mib() - before, "value": float(value.detach()), "gradient_norm": norm}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _in_child(loss: str, form: str, count: int) -> Row:
    command = [sys.executable, "-m", "tests.bench.relational_loss", "--one", loss, form, str(count)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _contrastive(points: Tensor, images: Tensor) -> Tensor:
    return functional.cross_entropy(points @ images.T / 0.07, torch.arange(len(points)))


def _relational(points: Tensor, images: Tensor, size) -> Tensor:
    wanted, count = images @ images.T, len(points)
    across, within = size(points @ images.T - wanted), size(points @ points.T - wanted)
    off = lambda matrix: (matrix.sum() - matrix.trace()) / (count * count - count)  # noqa: E731
    return across.trace() / count + off(across) + off(within)


def _divergences(points: Tensor, images: Tensor) -> Tensor:
    off = ~torch.eye(len(points), dtype=torch.bool)
    log_softmax = lambda logits: (logits / 0.07)[off].view(len(points), -1).log_softmax(1)  # noqa: E731
    wanted = log_softmax(images @ images.T)
    terms = (
        functional.kl_div(log_softmax(points @ columns.T), wanted, reduction="batchmean", log_target=True)
        for columns in (images, points)
    )
    return (1 - (points * images).sum(1)).mean() + sum(terms)


DENSE = {
    "contrastive": _contrastive,
    "relational-l1": lambda points, images: _relational(points, images, torch.abs),
    "relational-mse": lambda points, images: _relational(points, images, torch.square),
    "relational-kl": _divergences,
}
"""Formulas in plain torch; of the others the tests hold slow twins, pair by pair."""


if __name__ == "__main__":
    sys.exit(main())
