"""From a recipe to a method: the one place that knows which methods exist."""

from ray_lidarseg import recipe as schema
from ray_lidarseg.methods.lasermix import LaserMix
from ray_lidarseg.methods.mean_teacher import MeanTeacher
from ray_lidarseg.methods.method import Method
from ray_lidarseg.methods.supervised import Supervised
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.sample import SensorSpec


def build_method(recipe: schema.Recipe, sensor: SensorSpec, num_classes: int) -> Method:
    """The method ``recipe.method`` names around the model ``recipe.model`` names, weights from torch's generator.

    Raises:
        ResourceError: The sparse backend the recipe asks for is not installed.
    """
    student = build_segmentor(recipe, sensor, num_classes)
    # most specific first: each recipe extends the one after it
    if isinstance(recipe.method, schema.LaserMix):
        return LaserMix(student, recipe.method, sensor)
    if isinstance(recipe.method, schema.MeanTeacher):
        return MeanTeacher(student, recipe.method)
    return Supervised(student, recipe.method)
