"""From a recipe to a method: the one place that knows which methods exist."""

from collections.abc import Sequence
from typing import TypeVar

from ray_lidarseg.datasets.entries import entry_named
from ray_lidarseg.errors import RecipeError
from ray_lidarseg.methods.cbst import CBST
from ray_lidarseg.methods.cps import CPS
from ray_lidarseg.methods.cutmix_seg import CutMixSeg
from ray_lidarseg.methods.distill import Distill, require_features
from ray_lidarseg.methods.lasermix import LaserMix
from ray_lidarseg.methods.lasermix_pp import LaserMixPP, require_evidence
from ray_lidarseg.methods.mean_teacher import MeanTeacher
from ray_lidarseg.methods.method import Method, refuse_idle_teacher
from ray_lidarseg.methods.nerf import NeRF
from ray_lidarseg.methods.polarmix import PolarMix
from ray_lidarseg.methods.supervised import Supervised
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import SensorSpec

Teaching = TypeVar("Teaching", bound=schema.WithTeacher)


def build_method(recipe: schema.Recipe, sensor: SensorSpec, num_classes: int) -> Method:
    """The method ``recipe.method`` names around the model ``recipe.model`` names, weights from torch's generator.

    Raises:
        RecipeError: The method's settings do not fit the data or the model.
        ResourceError: The sparse backend the recipe asks for is not installed.
    """
    student, method = _build_student(recipe, sensor, num_classes), recipe.method
    if isinstance(method, schema.WithTeacher):  # methods know no schedule: a memory in its shares becomes a decay here
        method = _with_decay(method, recipe)
    if isinstance(method, schema.CBST | schema.CutMixSeg):  # whose teachers see the unlabelled scans alone
        refuse_idle_teacher(method, recipe.train.unlabelled_per_step > 0, "train.unlabelled_per_step=0")
    if isinstance(method, schema.NeRF) and method.mixing is not None:
        method = method.model_copy(update={"mixing": _with_decay(method.mixing, recipe)})
    # most specific first: a section may extend the one after it
    if isinstance(method, schema.LaserMixPP):
        return LaserMixPP(student, method, sensor, recipe.data.evidence_dim)
    if isinstance(method, schema.LaserMix):
        return LaserMix(student, method, sensor)
    if isinstance(method, schema.PolarMix):
        return PolarMix(student, method, _instance_classes(recipe, method))
    if isinstance(method, schema.MeanTeacher):
        return MeanTeacher(student, method)
    if isinstance(method, schema.CBST):
        return CBST(student, method)
    if isinstance(method, schema.CPS):
        return CPS(student, _build_student(recipe, sensor, num_classes), method)
    if isinstance(method, schema.CutMixSeg):
        return CutMixSeg(student, method, sensor)
    if isinstance(method, schema.NeRF):
        return NeRF(student, method, sensor)
    if isinstance(method, schema.Distill):
        return Distill(student, method, recipe.data.evidence_dim)
    return Supervised(student, method)


def _with_decay(method: Teaching, recipe: schema.Recipe) -> Teaching:
    return method.model_copy(update={"ema_decay": method.decay_over(recipe.train.steps)})


def _build_student(recipe: schema.Recipe, sensor: SensorSpec, num_classes: int) -> Segmentor:
    student = build_segmentor(recipe, sensor, num_classes)
    if recipe.start and recipe.start.frozen:
        student.freeze_backbone()
    return student


def check_evidence(recipe: schema.Recipe, has_text: bool) -> None:
    """What a driver asks before workers build the method: is the image evidence there, and can workers exchange it?

    Args:
        recipe: With ``data.evidence_dim`` of the layer that ``data.evidence`` names.
        has_text: Whether that layer holds text embeddings.

    Raises:
        RecipeError: It is not; or workers could run different numbers of forwards, each of which waits for all.
    """
    if isinstance(recipe.method, schema.LaserMixPP):
        require_evidence(recipe.method, recipe.data.evidence_dim if recipe.data.evidence else 0, has_text)
    if isinstance(recipe.method, schema.Distill):
        require_features(recipe.data.evidence_dim if recipe.data.evidence else 0)
        _require_like_forwards(recipe, recipe.method)


def _require_like_forwards(recipe: schema.Recipe, method: schema.Distill) -> None:
    # on GPUs every worker gets equally many micro-batches; without micro-batches each has one
    is_uneven = recipe.is_elastic and recipe.train.micro_batch and recipe.workers.use_gpu != "yes"
    if method.gather and is_uneven:
        raise RecipeError(
            "method.gather waits for all workers in every forward, and elastic workers without GPUs may have different "
            "numbers of micro-batches: set train.micro_batch=0, workers.num_workers to a number that divides the "
            "batch, or workers.use_gpu=yes"
        )


def _instance_classes(recipe: schema.Recipe, method: schema.PolarMix) -> Sequence[int]:
    if method.instance_classes or not method.paste_ratio:
        return method.instance_classes
    things = entry_named(recipe.data.dataset).things
    if not things:
        raise RecipeError(
            f"method polarmix: with data.dataset={recipe.data.dataset}, name the class ids of things that stand apart "
            "(cars, people) in method.instance_classes, or set method.paste_ratio=0"
        )
    return things
