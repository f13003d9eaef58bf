"""Why rendered pseudo-labels are wrong, or missing: `python -m tests.bench.parallax_depth [--json FILE] [--quick]`.

The scenes, the model that is always right and the opaque cells of ``tests.bench.parallax``, as mounted; pixel by pixel,
before segments vote. A pixel of known class shows

``nothing``    its ray meets no cell, or not enough of them: the method leaves it out;
``right``      the rendered class is the camera's;
``through``    another class, from behind what the camera sees: the ray went between two beams or past an edge;
``in front``   another class, from in front of it: a cell is larger than what fills it, or the LiDAR saw another moment;
``there``      another class at the right distance: cells in which classes meet.

The right distance is the camera's up to half a metre or 5 %, whichever is more (ours: two cells of the coarser grid).
Percent of all pixels of known class, ± 95 % over scenes (t). Fails (rc 1) where a target's shares do not sum to 1.
"""

import sys
from functools import partial

import numpy as np
import torch

from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.types import IGNORE
from tests.bench.ledger import Ledger, Row, closing, parser, print_table
from tests.bench.parallax import FRAMES, GRIDS, RECIPE, SEEDS, Look, interval, look_at, rendered, scene_of

FATES = ("nothing", "right", "through", "in front", "there")
TOLERANCE_M, TOLERANCE_RATIO = 0.5, 0.05


def main() -> int:
    """Measures, prints, writes; 1 where a pixel has no fate, or two."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    seeds, frames = (SEEDS[:2], FRAMES[:1]) if args.quick else (SEEDS, FRAMES[::2])
    ledger, rows = Ledger(args.json), []
    for seed in seeds:
        key = {"seed": seed, "frames": list(frames)}
        rows.append(ledger.measure(key, partial(of_scene, seed, frames)))
    lines = []
    for target in GRIDS:
        shares = np.array([[row[f"{target}_{fate}"] / row["known"] for fate in FATES] for row in rows])
        lines.append([target, *(interval(column) for column in shares.T)])
    print_table([f"{len(rows)} scenes of {len(frames)} frames, %", *FATES], lines)
    figures = "; ".join(f"{target}: {_of_the_wrong(rows, target)}" for target in GRIDS)
    return closing(problems(rows), f"of the wrong pixels, {figures}")


def of_scene(seed: int, frames: tuple[int, ...]) -> Row:
    """Pixels by target and fate."""
    scene = scene_of(PRESETS["demo"], seed)
    total: Row = {"known": 0, **{f"{target}_{fate}": 0 for target in GRIDS for fate in FATES}}
    for frame in frames:
        look = look_at(scene, seed, frame, quality=1.0)
        total["known"] += int((look.known != IGNORE).sum())
        for target, grid in GRIDS.items():
            seen = rendered(look, grid)
            is_opaque = seen.opacity >= RECIPE.min_opacity
            for fate, count in fates(look, is_opaque, seen.semantics.argmax(dim=1), seen.depth_m).items():
                total[f"{target}_{fate}"] += count
    return total


def fates(look: Look, is_opaque: torch.Tensor, said: torch.Tensor, depth_m: torch.Tensor) -> dict[str, int]:
    """How many pixels of known class end how; see above.

    Args:
        look: The frame.
        is_opaque: bool [R].
        said: [R] rendered class.
        depth_m: [R] rendered distance along the ray.
    """
    is_known = look.known != IGNORE
    is_wrong = is_known & is_opaque & (said != look.known)
    tolerance_m = (TOLERANCE_RATIO * look.depth_m).clamp_min(TOLERANCE_M)
    is_through, is_before = depth_m > look.depth_m + tolerance_m, depth_m < look.depth_m - tolerance_m
    chosen = {
        "nothing": is_known & ~is_opaque,
        "right": is_known & is_opaque & (said == look.known),
        "through": is_wrong & is_through,
        "in front": is_wrong & is_before,
        "there": is_wrong & ~is_through & ~is_before,
    }
    return {fate: int(pixels.sum()) for fate, pixels in chosen.items()}


def problems(rows: list[Row]) -> list[str]:
    """Targets whose pixels do not add up, in words."""
    found = []
    for row in rows:
        for target in GRIDS:
            count = sum(row[f"{target}_{fate}"] for fate in FATES)
            if count != row["known"]:
                found.append(f"seed {row['seed']}, {target}: fates of {count} pixels of {row['known']}")
    return found


def _of_the_wrong(rows: list[Row], target: str) -> str:
    counts = {fate: sum(row[f"{target}_{fate}"] for row in rows) for fate in FATES[2:]}
    return ", ".join(f"{fate} {count / max(sum(counts.values()), 1):.0%}" for fate, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
