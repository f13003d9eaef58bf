import pytest

from ray_lidarseg import recipe as schema
from ray_lidarseg.methods.lasermix import LaserMix
from ray_lidarseg.methods.mean_teacher import MeanTeacher
from ray_lidarseg.methods.supervised import Supervised


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [(schema.Supervised(), Supervised), (schema.MeanTeacher(), MeanTeacher), (schema.LaserMix(), LaserMix)],
)
def test_each_recipe_gives_its_method(build, recipe, expected):
    method = build(recipe)
    assert type(method) is expected
    assert method.student.num_classes == 4
