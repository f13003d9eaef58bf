"""The verb `export`: a run's network as a `.safetensors` file, with a card of what it was made of, or as ONNX.

The file holds the deployed network by the names of ``Segmentor.state_dict``, so that ``start.file`` reads it; of a
distilled one the classifier, which never learned, is left out and the projection to the teacher's features kept.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, cast

from ray_lidarseg import storage
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.layers import read_layer
from ray_lidarseg.errors import DataError, LidarSegError, RunError
from ray_lidarseg.foundation.weight_files import save_weights
from ray_lidarseg.methods.distill import Distill
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.onnx_export import largest_difference, to_onnx
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.recipe.text_files import read_json
from ray_lidarseg.training.run_folder import RunFolder, load_method

WEIGHTS, CARD, ONNX = "model.safetensors", "README.md", "model.onnx"
MAX_DIFFERENCE = 1e-3
"""Of a logit: float32 sums of thousands of products in another order differ by 1e-5. Ours."""

_UNSTATED = "not stated: ask whoever gave you the teacher's weights before you pass this file on"


def export(run: str, out: str, teacher_licence: str = "", which: str | int = "latest") -> str:
    """Writes ``OUT/model.safetensors`` and ``OUT/README.md``.

    Args:
        run: Run folder.
        out: Folder.
        teacher_licence: Of the image teacher's weights, which may bind what was distilled from them.
        which: Checkpoint: ``latest`` or a number of steps.

    Returns:
        The card.

    Raises:
        RunError: There is no run, or no such checkpoint.
        StorageError: The folder cannot be written.
    """
    storage.check_writable(out)
    method, recipe, step = load_method(run, which)
    model = method.deployed_model
    weights = model.state_dict()
    if isinstance(method, Distill):
        weights = {name: value for name, value in weights.items() if not model.is_of_head(name)}
        weights |= {f"projection.{name}": value for name, value in method.head.state_dict().items()}
    folder = RunFolder(run)
    card = _card(folder, recipe, step, sum(value.numel() for value in weights.values()), teacher_licence)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, WEIGHTS)
        save_weights({name: value.contiguous() for name, value in weights.items()}, file)
        storage.write_bytes(storage.join(out, WEIGHTS), file.read_bytes())
    storage.write_bytes(storage.join(out, CARD), card.encode())
    print(f"{storage.join(out, WEIGHTS)}: {len(weights)} tensors after {step} steps; {CARD} beside it", flush=True)
    return card


def export_onnx(run: str, out: str, which: str | int = "latest") -> None:
    """Writes ``OUT/model.onnx`` of a FIDNet; ``models.onnx_export`` says what goes in and what comes out.

    Args:
        run: Run folder.
        out: Folder.
        which: Checkpoint: ``latest`` or a number of steps.

    Raises:
        RecipeError: The run's model is not FIDNet.
        ResourceError: The packages of the extra ``onnx`` are not installed.
        RunError: There is no run or checkpoint, or onnxruntime computes something else than the model.
        StorageError: The folder cannot be written.
    """
    storage.check_writable(out)
    method, recipe, step = load_method(run, which)
    model = method.deployed_model
    graph = to_onnx(model, dataset_of(recipe.data).taxonomy.class_names, recipe.data.use_intensity)
    difference = largest_difference(graph, cast(FIDNet, model))
    if not difference <= MAX_DIFFERENCE:
        raise RunError(
            f"onnxruntime's logits differ from the model's by up to {difference:.2g}, expected {MAX_DIFFERENCE:g}: "
            "use the versions of onnx and onnxruntime that requirements.txt pins"
        )
    content = graph.SerializeToString()
    storage.write_bytes(storage.join(out, ONNX), content)
    print(
        f"{storage.join(out, ONNX)}: {step} steps, {len(content) / 2**20:.1f} MiB, opset "
        f"{graph.opset_import[0].version}; onnxruntime's logits are within {difference:.1e} of the model's",
        flush=True,
    )


def _card(folder: RunFolder, recipe: Recipe, step: int, num_weights: int, teacher_licence: str) -> str:
    manifest, data, method = folder.manifest(), recipe.data, recipe.method
    split, taxonomy = manifest["split"], dataset_of(data).taxonomy
    settings = {key: value for key, value in method.model_dump(mode="json").items() if key != "name"}
    lines = [
        f"# {recipe.name}",
        "",
        f"A LiDAR network ({recipe.model.name}, {num_weights:,} numbers) of ray_lidarseg, method {method.name}.",
        "",
        "| what | |",
        "|---|---|",
        f"| data | {data.dataset}, {split['num_unlabelled']:,} scans without and {split['num_labelled']:,} with labels "
        f"(split {split['protocol']}, digest {split['digest']}) |",
        f"| classes | {', '.join(taxonomy.class_names)} |",
        f"| steps | {step:,} of {recipe.train.steps:,}, {recipe.optim.name}, peak rate {recipe.optim.lr:g} |",
        f"| method | {method.name}: {_as_words(settings)} |",
        f"| recipe | {recipe.fingerprint} |",
    ]
    if start := manifest.get("start"):
        lines.append(f"| started from | {start['from']}, step {start['step']:,}, sha256 {start['sha256']} |")
    teachers = _teachers(folder, recipe)
    lines += [f"| teacher | {teacher} |" for teacher in teachers]
    if teachers or teacher_licence:
        lines.append(f"| licence of the teacher | {teacher_licence or _UNSTATED} |")
    for key, value in _measured(folder, step).items():
        lines.append(f"| {key} | {value} |")
    lines += [
        "",
        f"Start a run from it: `--set start.file={WEIGHTS}` with `model.*` as below.",
        "",
        "```json",
        json.dumps(recipe.model.model_dump(mode="json")),
        "```",
        "",
    ]
    return "\n".join(lines)


def _as_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _teachers(folder: RunFolder, recipe: Recipe) -> list[str]:
    """Image teachers of the run and of the runs it started from, as far back as they can be read."""
    found, read = [], {folder.uri}
    while True:
        if recipe.data.evidence:
            found.append(_teacher(folder, recipe))
        source = recipe.start.run if recipe.start else ""
        if not source or source in read:
            return list(dict.fromkeys(found))
        folder = RunFolder(source)
        read.add(source)
        try:
            recipe = folder.recipe()
        except LidarSegError:  # deleted, or moved
            return list(dict.fromkeys(found))


def _teacher(folder: RunFolder, recipe: Recipe) -> str:
    """What the layer says its teacher is; its name alone where the shards are not there any more."""
    name = recipe.data.evidence.partition("/")[0]
    try:
        layer = read_layer(*storage.resolve(folder.prepared(recipe)), name)
    except LidarSegError:
        return name
    return f"{layer.identity.get('name', name)}, {layer.feature_dim} numbers a segment ({_as_words(layer.identity)})"


def _measured(folder: RunFolder, step: int) -> dict[str, str]:
    """Figures of `evaluate`, where it was run on the weights of that step."""
    place = folder.path("evaluation", "val.json")
    if not storage.exists(place):
        return {"measured": "nothing yet: run `ray-lidarseg evaluate` and export again"}
    found = read_json(storage.read_bytes(place), place, DataError)
    if found["step"] != step:
        return {
            "measured": f"at step {found['step']:,}, not of these weights: run `ray-lidarseg evaluate` and export again"
        }
    said = {}
    for source, scores in found.get("zero_shot", {}).items():
        said[f"zero-shot mIoU, {source}"] = "-" if scores["miou_ratio"] is None else f"{scores['miou_ratio']:.1%}"
    for name in ("uniformity", "tolerance", "modality_gap", "alignment_gap", "structural_gap"):
        structure = found.get("structure") or {}
        if name in structure:
            beside = structure.get(f"source_{name}")
            said[name.replace("_", " ")] = f"{structure[name]:.3f}" + (f" (images {beside:.3f})" if beside else "")
    if "zero_shot" not in found:
        deployed = found["models"][found["deployed"]]["point"]
        said["point mIoU"] = f"{deployed['miou_ratio'] or 0:.1%} on {found['frames']} frames of {found['split']}"
    return said
