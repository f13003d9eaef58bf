"""From a recipe to a model: the one place that knows which models exist."""

from ray_lidarseg import recipe as schema
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import SensorSpec


def build_segmentor(recipe: schema.Recipe, sensor: SensorSpec, num_classes: int) -> Segmentor:
    """The model ``recipe.model`` names, with fresh weights from torch's global generator.

    Raises:
        RecipeError: The voxels are too small for the sensor's range.
        ResourceError: The sparse backend the recipe asks for is not installed.
    """
    model = recipe.model
    if isinstance(model, schema.FIDNet):
        return FIDNet(sensor, num_classes, model.height_px, model.width_px, model.width_factor, model.blocks)
    from ray_lidarseg.models.minkunet import build_minkunet  # only where it is used: it loads the sparse backends

    return build_minkunet(model, sensor, num_classes, recipe.sparse.backend)
