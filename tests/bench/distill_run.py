"""One row of the distillation benchmark, all in one process: the pre-training, its structure and words, what follows.

`python -m tests.bench.distill_run WANTED.json FOLDER`, where WANTED holds recipes by the name of their run below
FOLDER, in the order in which they are trained; what has ended is not trained again.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.evidence import EvidenceReader, TextEmbeddings
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError
from ray_lidarseg.methods.distill import Distill
from ray_lidarseg.metrics.zero_shot import LanguageScores
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.word_classifier import Words, ZeroShot
from ray_lidarseg.recipe.load import override, parse_recipe
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.run_folder import load_method
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT
from tests.bench.lasermix_pp import RECIPE as SHARED
from tests.bench.lasermix_pp import recipe as semi_recipe
from tests.bench.ledger import Row
from tests.bench.runs import figures_of, train_here

DISTILLED, MEASURED, RANDOM = "distilled", "measured.json", "random"
WEIGHTS = "random.safetensors"
LOSSES: dict[str, dict[str, Any]] = {
    RANDOM: {},
    "contrastive": {"method.loss": "contrastive"},
    "st-contrastive": {"method.loss": "st_contrastive"},
    "similarity": {"method.loss": "similarity"},
    "relational": {},
    "relational-mse": {"method.relation": "mse"},
}
_NETWORK = {
    key: value for key, value in SHARED.items() if not key.startswith(("method.", "split.", "train.unlabelled"))
}
_PER_CLASS = 1000  # features the structure is measured on: 5,000, the paper's, take 25 times as long
_PER_FRAME = 50


@dataclass(frozen=True)
class Protocol:
    """What is trained from a pre-trained network.

    Attributes:
        title: As the table calls it.
        rung: Row of ``tests.bench.lasermix_pp`` whose recipe it is.
        steps: Of its training; 0: as many as that row has.
        is_frozen: Whether the classifier alone learns.
        is_elsewhere: Whether it learns and is scored in the other world.
    """

    title: str
    rung: str
    steps: int = 0
    is_frozen: bool = False
    is_elsewhere: bool = False


PROTOCOLS = {
    "linear_probe": Protocol("linear probe", "all-labels", 1000, is_frozen=True),
    "fine_tuned": Protocol("fine-tuned", "sup-only"),
    "other_sensor": Protocol("fine-tuned elsewhere", "sup-only", 1000, is_elsewhere=True),
    "lasermix": Protocol("LaserMix", "lasermix"),
    "lasermix_pp": Protocol("LaserMix++", "all"),
}


@dataclass(frozen=True)
class Places:
    """What a row reads.

    Attributes:
        prepared: Shards and layers.
        evidence: ``features-…/pairs-…`` below.
        elsewhere: Shards of the other world, in the SemanticKITTI layout.
        prototypes: File of class embeddings from pictures; empty: none.
    """

    prepared: str
    evidence: str
    elsewhere: str = ""
    prototypes: str = ""


def pre_training(places: Places, name: str, seed: int, steps: int, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of a loss."""
    rhythm = {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": max(steps // 4, 1)}
    shared = {**_NETWORK, **rhythm, "data.prepared": places.prepared, "data.evidence": places.evidence, "seed": seed}
    shared |= {"train.diagnose_frames": 0, "train.unlabelled_per_step": 4, "method.name": "distill"}
    return override(Recipe(), {**shared, **LOSSES[name], **overrides})


def downstream(
    places: Places, name: str, protocol: str, ratio: float, seed: int, folder: Path, overrides: Mapping[str, Any]
) -> Recipe:
    """The recipe of what follows a pre-training by the loss ``name`` in ``folder``, or random weights.

    What learns from random weights in the same world has no ``start:`` and is the very run of `lasermix_pp`.
    """
    wanted = PROTOCOLS[protocol]
    changes = {**({"train.steps": wanted.steps} if wanted.steps else {}), **overrides}
    if wanted.is_elsewhere:
        changes |= {"data.dataset": "semantickitti", "data.prepared": places.elsewhere}
    made = semi_recipe(places.prepared, places.evidence, wanted.rung, ratio, seed, changes)
    if name != RANDOM:
        start = {"run": str(folder / DISTILLED), "part": "backbone", "frozen": wanted.is_frozen}
        return override(made, {"start": start})
    if wanted.is_frozen:
        return override(made, {"start": {"file": str(folder / WEIGHTS), "part": "backbone", "frozen": True}})
    return made


def main(wanted: Path, folder: Path) -> None:
    content = json.loads(wanted.read_text())
    for name, text in content["recipes"].items():
        recipe, run = parse_recipe(text), folder / name
        if recipe.start and recipe.start.file:
            write_random(recipe, Path(recipe.start.file))
        if figures_of(run, recipe) is None:
            train_here(recipe, run)
        if name == DISTILLED and not (run / MEASURED).exists():
            found = language(run, content["frames"], content["prototypes"])
            storage.write_bytes(str(run / MEASURED), json.dumps(found, indent=1).encode())


def write_random(recipe: Recipe, file: Path) -> None:
    """A network no one has trained, with the weights that training would begin with."""
    torch.manual_seed(recipe.seed)
    model = build_segmentor(recipe, resolve_sensor(recipe.data), dataset_of(recipe.data).taxonomy.num_classes)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)


@torch.no_grad()
def language(run: Path, num_frames: int, prototypes: str) -> Row:
    """Structure of a distilled network's features, and mIoU by words and by prototypes of the same teacher.

    Args:
        run: Its run folder.
        num_frames: See ``measured_frames``.
        prototypes: File of class embeddings; empty: words alone.
    """
    method, recipe, _ = load_method(str(run))
    model, sensor = cast(ZeroShot, cast(Distill, method).classifier).eval(), resolve_sensor(recipe.data)
    frames, evidence = measured_frames(recipe.data.prepared, recipe.data.evidence, num_frames)
    said = {"text": model.words}
    if prototypes:
        said["prototypes"] = Words().read(TextEmbeddings.from_bytes(storage.read_bytes(prototypes), prototypes))
    scores = {name: LanguageScores(words.num_classes, _PER_FRAME, _PER_CLASS) for name, words in said.items()}
    for number in range(len(frames)):
        frame = frames[number]
        extras, segments = evidence.read(number, (IMAGE_FEATURES,))
        batch = replace(to_batch(frame, sensor, recipe.data.use_intensity, extras)[0], segments=segments)
        points, images = model(batch).point_features, batch.of_segments(IMAGE_FEATURES).float()
        for name, words in said.items():
            scores[name].add(frame.frame_id, batch.labels, points, images, batch.extras[IMAGE_SEGMENT] > 0, words)
    absent = dataset_of(recipe.data).absent
    found = {name: part.result(absent)["zero_shot"] for name, part in scores.items()}
    structure = scores["text"].reservoir.structure()
    if structure is None:
        raise DataError(f"{run}: none of {len(frames)} frames has a point with an image feature")
    counts = asdict(structure)
    return {
        **{name: value for name, value in counts.items() if name != "counts"},
        "structural_gap": structure.structural_gap,
        "features": sum(counts["counts"]),
        "language_frames": len(frames),
        "words": {
            name: {source: part["miou_ratio"] for source, part in sources.items()} for name, sources in found.items()
        },
    }


def measured_frames(prepared: str, layers: str, count: int) -> tuple[PreparedFrames, EvidenceReader]:
    """Evenly spread validation frames; training frames where none of these has features.

    Raises:
        DataError: No frame has any.
    """
    place = storage.resolve(prepared)
    catalog = read_catalog(*place)
    for split in ("val", "train"):
        names = catalog.of_split(split).frame_id
        chosen = catalog.select(names[:: max(len(names) // count, 1)])
        evidence = EvidenceReader(*place, chosen, layers)
        if evidence.num_missing < len(chosen):
            return PreparedFrames(*place, chosen), evidence
    raise DataError(f"{prepared}: no frame has features in {layers}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
