"""From a recipe to a model: the one place that knows which models exist."""

from ray_lidarseg.datasets.entries import entry_named
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.image_unet import ImageUNet
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import SensorSpec


def build_segmentor(recipe: schema.Recipe, sensor: SensorSpec, num_classes: int) -> Segmentor:
    """The model ``recipe.model`` names, with fresh weights from torch's global generator.

    Raises:
        RecipeError: The voxels are too small for the sensor's range, or the model sees images and this is a LiDAR.
        ResourceError: The sparse backend the recipe asks for is not installed, or cannot compute the model.
    """
    model = recipe.model
    if isinstance(model, schema.FIDNet):
        return FIDNet(sensor, num_classes, model.height_px, model.width_px, model.width_factor, model.blocks)
    if isinstance(model, schema.ImageUNet):
        return ImageUNet(sensor, num_classes, model.width_factor, model.num_levels)
    return _build_sparse(model, recipe, sensor, num_classes)


def _build_sparse(
    model: schema.MinkUNet | schema.SPVCNN | schema.Cylinder3D,
    recipe: schema.Recipe,
    sensor: SensorSpec,
    num_classes: int,
) -> Segmentor:
    """Imports only what is used: these models load the sparse backends."""
    backend = recipe.sparse.backend
    if isinstance(model, schema.Cylinder3D):
        from ray_lidarseg.models.cylinder3d import build_cylinder3d

        return build_cylinder3d(model, entry_named(recipe.data.dataset).grid_height_m, num_classes, backend)
    if isinstance(model, schema.SPVCNN):
        from ray_lidarseg.models.spvcnn import build_spvcnn

        return build_spvcnn(model, sensor, num_classes, backend)
    from ray_lidarseg.models.minkunet import build_minkunet

    return build_minkunet(model, sensor, num_classes, backend)
