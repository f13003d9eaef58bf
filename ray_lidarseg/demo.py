"""The main job on one machine, without a download: world, prepare, train, evaluate, predict, report."""

import os
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ray_lidarseg.evaluate import evaluate
from ray_lidarseg.evaluate.score_tables import percent
from ray_lidarseg.index import index
from ray_lidarseg.predict import predict
from ray_lidarseg.prepare import Teachers, prepare
from ray_lidarseg.recipe.load import load_recipe, override, with_method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.report.page import report
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.train import train
from ray_lidarseg.training.precision import computes_bf16_natively
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.world import generate

T = TypeVar("T")

_EVIDENCE = {"data.evidence": "auto", "method.unmixed_evidence_weight": 0.0}
"""What images say is read on mixed scans alone: the same points, without a forward of the student more a step."""

WHAT_IT_SHOWS = (
    "One world, two unseen scenes, a few minutes of training: differences of a point or two are chance here. What\n"
    "unlabelled scans are worth over three seeds and a longer run stands in README.md."
)
"""Measured over five worlds by tests/bench/demo_gain.py."""

METHODS = ("supervised", "lasermix", "lasermix_pp")
"""All train on the same few labels; the differences are what unlabelled scans, and then their images, are worth."""

TEACHERS = {"masks": "sam", "features": "clip", "overrides": ("masks.points_per_side=6",)}
"""The miniatures that ship with the package. On images as small as the demo's a coarser grid of prompts finds as much
(mean best IoU 0.31 with 6 and 0.32 with 8 a side: ``miniature.measure.measure_maps`` on 36 pictures of world seed 777,
shrunk to the demo's size, tried once by hand)."""

_SAM_IN_BF16 = "masks.precision=bf16"
"""Where the processor has bfloat16: as good on those pictures (0.31), in four fifths of the time."""


def demo(out: str = "demo", steps: int = 0, seed: int = 0, preset: str = "demo", ratio: float = 0.0) -> Path:
    """Runs everything below ``out``; interrupted, the same call continues.

    Args:
        out: Folder for the log, the shards, both runs, the predictions and the report.
        steps: Training steps of each run; 0: as in the built-in recipe ``demo``.
        seed: Seed of the world, the label split and the training.
        preset: Size of the world.
        ratio: Share of the training frames that count as labelled; 0: as in the recipe.

    Returns:
        The report.
    """
    folder = Path(out).resolve()
    began = time.monotonic()
    unseen: dict[str, float | None] = {}
    with connect():
        _step("world: a synthetic driving log in nuScenes format", generate, preset, str(folder / "world"), seed)
        _step("index", index, "nuscenes", str(folder / "world"), str(folder / "index.parquet"))
        _step("prepare: decode; SAM's masks, CLIP's features", _prepare, folder)
        for method in METHODS:
            run = str(folder / "runs" / method)
            _step(f"train: {method}", train, demo_recipe(folder, method, steps, seed, ratio), run)
            found = _step(f"evaluate: {method}", evaluate, run)
            unseen[method] = found["models"][found["deployed"]]["point"]["miou_ratio"]
        _label_unseen_scans(folder)
        page = folder / "report.html"
        _step("report", _report, folder, page)
    print(f"\n{closing_table(folder, unseen)}")
    print(WHAT_IT_SHOWS)
    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} min. Report: {page}")
    _open(page)
    return page


def closing_table(folder: Path, unseen: Mapping[str, float | None]) -> str:
    """What each method is worth, in words: on scenes nobody trained on, and on the scans that had no labels.

    Args:
        folder: Of the demo.
        unseen: Point mIoU of each method's deployed model on the validation scenes, as a share.
    """
    lines = [f"{'point mIoU, %':<16}{'unseen scenes':>15}{'training scans without labels':>32}"]
    for method, value in unseen.items():
        run = RunFolder(str(folder / "runs" / method))
        last = [line for line in run.metrics() if line["kind"] == "diagnose"][-1:]
        key = f"{run.recipe().method.deployed}_unlabelled_miou_ratio"
        known = f"{percent(last[0][key])} ({last[0]['frames']} of them)" if last else "-"
        lines.append(f"{method:<16}{percent(value):>15}{known:>32}")
    return "\n".join(lines)


def demo_recipe(folder: Path, method: str, steps: int = 0, seed: int = 0, ratio: float = 0.0) -> Recipe:
    """The built-in recipe ``demo`` for one method, on the shards below ``folder``.

    In bfloat16 where the processor has it: a LaserMix step of so narrow a network is 1.2 times as fast then.
    """
    length = {"train.steps": steps, "train.evaluate_every": max(steps // 4, 1)} if steps else {}
    return override(
        with_method(load_recipe("demo"), method),
        {
            "name": f"demo-{method}",
            "data.prepared": str(folder / "prepared"),
            "seed": seed,
            "split.seed": seed,
            **({"split.ratio": ratio} if ratio else {}),
            **(_EVIDENCE if method == "lasermix_pp" else {}),
            **({"train.amp": "bf16"} if computes_bf16_natively() else {}),
            **length,
        },
    )


def _prepare(folder: Path) -> None:
    """Validation images are shown to no teacher: training reads none of them."""
    index, out = str(folder / "index.parquet"), str(folder / "prepared")
    overrides = (*TEACHERS["overrides"], *((_SAM_IN_BF16,) if computes_bf16_natively() else ()))
    prepare(index, out, teachers=Teachers.of(**{**TEACHERS, "overrides": overrides}), image_splits=("train",))


def _label_unseen_scans(folder: Path) -> None:
    arguments = {"prepared": str(folder / "prepared"), "split": "val", "file_format": "lidarseg"}
    run, out = str(folder / "runs" / METHODS[-1]), str(folder / "predictions")
    _step("predict: scans of scenes it never saw", lambda: predict(run, out, **arguments))


def _report(folder: Path, page: Path) -> None:
    runs = [str(folder / "runs" / method) for method in METHODS]
    report(runs, str(page), [str(folder / "predictions")], prepared=str(folder / "prepared"))


def _step(title: str, work: Callable[..., T], *args: object) -> T:
    print(f"\n=== {title}", flush=True)
    began = time.monotonic()
    result = work(*args)
    print(f"=== {title}: {time.monotonic() - began:.0f} s", flush=True)
    return result


def _open(page: Path) -> None:
    has_screen = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if has_screen and sys.stdout.isatty():
        webbrowser.open(page.as_uri())
