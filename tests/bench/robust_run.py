"""One run of the robustness benchmark: trained, then scored clean, under every corruption and with inference options.

`python -m tests.bench.robust_run RECIPE FOLDER`; FOLDER/run is a link to the run folder, which `tests.bench.runs` has
trained already or trains here, and which is only read after that. Frames scored so far lie in FOLDER/scored.json, so
that a stopped run goes on. How many validation frames: ROBUST_FRAMES, evenly spread; 0: all.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS, SEVERITIES
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.metrics.scoring import Scores, score
from ray_lidarseg.metrics.variant_scoring import CLEAN, VARIANTS, merged, score_variants
from ray_lidarseg.models.combined import Combined
from ray_lidarseg.models.knn_vote import KNNVote
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training.run_folder import load_method
from tests.bench.ledger import Row
from tests.bench.runs import FIGURES, figures_of, train_here

RUN, SCORED, FRAMES = "run", "scored.json", "ROBUST_FRAMES"
OPTIONS = {"knn": lambda model: KNNVote(model), "tta4": lambda model: Combined([model], num_views=4)}
_SAVE_EVERY = 10  # frames


def main(wanted: str, folder: Path) -> None:
    recipe, run = load_recipe(wanted), (folder / RUN).resolve()
    row = figures_of(run, recipe) or train_here(recipe, run)
    began = time.process_time()
    scores = scored(recipe, run, folder / SCORED, int(os.environ.get(FRAMES, 0)))
    row |= {"trained_commit": run.parent.name, "scoring_cpu_s": round(time.process_time() - began, 1)}
    storage.write_bytes(str(folder / FIGURES), json.dumps({**row, **figures(scores)}, indent=1).encode())


def link(folder: Path, run: Path) -> None:
    """Makes ``run``, which need not be there yet, the one that is scored in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN).unlink(missing_ok=True)
    (folder / RUN).symlink_to(run.resolve())


def figures(scores: dict[str, Scores]) -> Row:
    """mIoU clean, under each corruption and severity and with each option, by point, and the calibration error."""
    miou = {name: part.point.miou() for name, part in scores.items()}
    corrupted = {
        corruption: [round(miou[f"{corruption}/{severity}"], 5) for severity in SEVERITIES]
        for corruption in CORRUPTIONS
    }
    return {
        "clean_miou_ratio": miou[CLEAN],
        "corrupted_miou_ratio": corrupted,
        "options_miou_ratio": {name: miou[name] for name in OPTIONS},
        "ece_ratio": scores[CLEAN].calibration.error(),
        "frames": scores[CLEAN].num_frames,
    }


def scored(recipe: Recipe, run: Path, file: Path, num_frames: int) -> dict[str, Scores]:
    """The counts of all forms over the validation frames, from where a stopped process left them in ``file``."""
    method, _, _ = load_method(str(run))
    model, sensor, dataset = method.deployed_model, resolve_sensor(recipe.data), dataset_of(recipe.data)
    filesystem, path = storage.resolve(recipe.data.prepared)
    frames = PreparedFrames(filesystem, path, read_catalog(filesystem, path).of_split("val"))
    chosen = _spread(len(frames), num_frames)
    content = json.loads(file.read_text()) if file.exists() else {}
    if content.get("chosen") != chosen:
        content = {"chosen": chosen, "done": 0, "counts": {}}
    names = (*VARIANTS, *OPTIONS)
    scores = {
        name: Scores.from_json(content["counts"][name]) if content["done"] else Scores.empty(model.num_classes)
        for name in names
    }

    def forms(frame: Keyframe) -> dict[str, Scores]:
        found = score_variants(model, [frame], dataset, sensor, recipe.data.use_intensity)
        others = {name: wrap(model) for name, wrap in OPTIONS.items()}
        return found | {name: score(other, [frame], sensor, model.num_classes) for name, other in others.items()}

    for number in range(content["done"], len(chosen)):
        scores = merged([scores, forms(frames[chosen[number]])])
        if (number + 1) % _SAVE_EVERY == 0 or number + 1 == len(chosen):
            counts = {name: part.to_json() for name, part in scores.items()}
            content = {"chosen": chosen, "done": number + 1, "counts": counts}
            storage.write_bytes(str(file), json.dumps(content).encode())
    return scores


def _spread(available: int, wanted: int) -> Sequence[int]:
    count = min(wanted or available, available)
    return [number * available // count for number in range(count)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
