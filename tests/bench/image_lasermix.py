"""LaserMix on images: mIoU at few labels on the camera images of a synthetic world, mean ± std over seeds.

`python -m tests.bench.image_lasermix --json FILE [--jobs 1] [--quick]`

All six cameras of every key-frame; truth is rendered with the images, the sky is ignored. The built-in recipe
image_unet-world and the same recipe with other methods (the keys they share keep their values). The seed changes
the label split, the initial weights and the order of the images; the world, the model and the number of steps stay. The
last checkpoint counts (no selection on the validation scenes). Fails (rc 1) where LaserMix is not better than sup-only
by more than the larger of both standard deviations at every ratio, or where a figure is not finite.
"""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
from pyarrow import fs

from ray_lidarseg.datasets import world_images
from ray_lidarseg.datasets.catalog import CATALOG_NAME, write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.world_images import CLASSES as WORLD_IMAGES
from ray_lidarseg.recipe.load import load_recipe, override, with_method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.synthetic import nuscenes_writer
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import Preset, preset_named
from ray_lidarseg.synthetic.scene import Scene
from tests.bench.ledger import Ledger, Row, commit, measured_by, parser, print_table
from tests.bench.runs import MIN_SEEDS, Job, mean_std, measure_all, prepared_folder, print_classes, std

RECIPE = "image_unet-world"
METHODS = ("supervised", "mean_teacher", "lasermix")
OPTIONS = {"label_images": "yes", "columns": 16}  # hardly any LiDAR: only images are read
_IMAGES_PER_SHARD = 48


def main() -> int:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--world", default="demo", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--methods", nargs="+", default=list(METHODS))
    flags.add_argument("--ratios", nargs="+", type=float, default=[0.01, 0.1])
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--steps", type=int, default=0, help="0: as in the recipe")
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE on top of the recipe")
    flags.add_argument("--jobs", type=int, default=1, help="runs at a time")
    flags.add_argument("--folder", type=Path, help="world and runs, kept (default: build/bench/images-WORLD-SEED)")
    args = flags.parse_args()
    if args.quick:
        args.world, args.ratios, args.seeds, args.steps = "tiny", [0.1], [0], 4
    folder = args.folder or Path("build/bench") / f"images-{args.world}-{args.world_seed}"
    jobs = [
        _job(args, folder, method, ratio, seed)
        for ratio in args.ratios
        for seed in args.seeds
        for method in args.methods
    ]
    preset = with_options(preset_named(args.world), OPTIONS)
    rows = measure_all(Ledger(args.json), jobs, args.jobs, partial(prepared_images, folder, preset, args.world_seed))
    _print(rows, args)
    if args.quick or not {"supervised", "lasermix"} <= set(args.methods):
        print(f"{len(rows)} runs, {args.world} world: too few steps or methods for a comparison")
        return int(not all(math.isfinite(row["miou_ratio"]) for row in rows))
    is_good, sentence = verdict({ratio: _by_method(rows, ratio) for ratio in args.ratios})
    print(f"{rows[0]['world']}, pixel mIoU, {len(args.seeds)} seeds: {sentence}: {'ok' if is_good else 'FAILED'}")
    return int(not is_good)


def prepared_images(folder: Path, preset: Preset, seed: int) -> str:
    """The prepared images of a world below ``folder``, made where they are missing: what the verbs do, without Ray."""
    local, prepared = fs.LocalFileSystem(), Path(prepared_folder(folder))
    if not (prepared / CATALOG_NAME).exists():  # written last
        cv2.setNumThreads(1)
        scenes = [Scene(preset, seed, index) for index in range(len(preset.scenes))]
        rows = [nuscenes_writer.write_scene(folder / "world", scene) for scene in scenes]
        nuscenes_writer.write_tables(folder / "world", preset, seed, rows)
        frames = list(world_images.index(str((folder / "world").resolve()), preset.version))
        prepared.mkdir(exist_ok=True)
        for first in range(0, len(frames), _IMAGES_PER_SHARD):
            chosen = frames[first : first + _IMAGES_PER_SHARD]
            write_shard(local, str(prepared), [decode(frame, lambda uri: Path(uri).read_bytes()) for frame in chosen])
        write_catalog(local, str(prepared))
    return str(prepared)


def recipe(prepared: str, method: str, ratio: float, seed: int, steps: int, overrides: Sequence[str] = ()) -> Recipe:
    """The built-in recipe with another method; nothing but these and the overrides changes."""
    content = with_method(load_recipe(RECIPE, overrides), method)
    steps = steps or content.train.steps
    changes = {"data.prepared": prepared, "split.ratio": ratio, "split.seed": seed, "seed": seed}
    rhythm = {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": max(steps // 2, 1)}
    return override(content, {**changes, **rhythm, "workers.use_gpu": "no", "train.keep_checkpoints": 1})


def verdict(table: Mapping[float, Mapping[str, Sequence[float]]]) -> tuple[bool, str]:
    """Whether LaserMix beats sup-only by more than the spread of enough seeds at every ratio, and the figures in words.

    Args:
        table: mIoU in percent of each seed, by ratio and method.
    """
    parts, is_good = [], True
    for ratio, methods in table.items():
        base, ours = methods["supervised"], methods["lasermix"]
        gain, spread = statistics.mean(ours) - statistics.mean(base), max(std(base), std(ours))
        is_good &= gain > spread and len(ours) >= MIN_SEEDS
        parts.append(f"{ratio:.0%} labels LaserMix - sup-only = {gain:+.1f} (spread {spread:.1f})")
    return is_good, "; ".join(parts)


def _job(args, folder: Path, method: str, ratio: float, seed: int) -> Job:
    wanted = recipe(prepared_folder(folder), method, ratio, seed, args.steps, args.overrides)
    size = "x".join(str(pixels) for pixels in wanted.data.image_size)
    world = nuscenes_writer.dataset_id(preset_named(args.world), args.world_seed)
    key = {"world": world, "cameras": 6, "size_px": size, "method": method, "ratio": ratio, "seed": seed}
    key |= {"steps": wanted.train.steps, "overrides": " ".join(args.overrides)}
    name = f"{method}-{ratio:g}-{seed}-{wanted.fingerprint}"
    return Job(key, wanted, folder / "runs" / commit() / name)  # other code, other runs


def _print(rows: Sequence[Row], args) -> None:
    by_ratio = {ratio: _by_method(rows, ratio) for ratio in args.ratios}
    print_table(
        ["mIoU, %", *(f"{ratio:.0%} labels ({_images(rows, ratio)} images)" for ratio in args.ratios)],
        [[method, *(mean_std(by_ratio[ratio][method]) for ratio in args.ratios)] for method in args.methods],
    )
    columns = {
        f"{method} {ratio:.0%}": [row for row in rows if (row["ratio"], row["method"]) == (ratio, method)]
        for ratio in args.ratios
        for method in args.methods
    }
    print_classes(columns, WORLD_IMAGES.class_names)
    print(f"\n{rows[0]['size_px']} pixels, {rows[0]['parameters']} parameters, {rows[0]['train_steps']} steps each")
    print(measured_by(rows))


def _by_method(rows: Sequence[Row], ratio: float) -> dict[str, list[float]]:
    table: dict[str, list[float]] = {}
    for row in rows:
        if row["ratio"] == ratio:
            table.setdefault(row["method"], []).append(100 * row["miou_ratio"])
    return table


def _images(rows: Sequence[Row], ratio: float) -> int:
    return next(row["labelled_frames"] for row in rows if row["ratio"] == ratio)


if __name__ == "__main__":
    sys.exit(main())
