import pytest

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.methods.build import check_evidence
from ray_lidarseg.methods.cbst import CBST
from ray_lidarseg.methods.cps import CPS
from ray_lidarseg.methods.cutmix_seg import CutMixSeg
from ray_lidarseg.methods.distill import Distill
from ray_lidarseg.methods.lasermix import LaserMix
from ray_lidarseg.methods.lasermix_pp import LaserMixPP
from ray_lidarseg.methods.mean_teacher import MeanTeacher
from ray_lidarseg.methods.nerf import NeRF
from ray_lidarseg.methods.polarmix import PolarMix
from ray_lidarseg.methods.supervised import Supervised
from ray_lidarseg.recipe import load, schema

METHODS = {
    Supervised: schema.Supervised(),
    MeanTeacher: schema.MeanTeacher(),
    LaserMix: schema.LaserMix(),
    LaserMixPP: schema.LaserMixPP(distillation_weight=0.0, language_weight=0.0),
    CBST: schema.CBST(),
    CPS: schema.CPS(),
    CutMixSeg: schema.CutMixSeg(),
    PolarMix: schema.PolarMix(instance_classes=(1,)),
    NeRF: schema.NeRF(),
    Distill: schema.Distill(),
}
MODELS = {NeRF: "minkunet"}
"""Of methods that look into space; the others are built on a range-view model."""


@pytest.mark.parametrize("expected", METHODS)
def test_each_recipe_gives_its_method(build, expected):
    method = build(METHODS[expected], MODELS.get(expected, "fidnet"))
    assert type(method) is expected
    assert method.student.num_classes == 4


@pytest.mark.parametrize("expected", METHODS)
def test_weights_of_the_student_do_not_depend_on_the_method(build, expected):
    model = MODELS.get(expected, "fidnet")
    reference = build(schema.Supervised(), model).student.state_dict()
    student = build(METHODS[expected], model).student
    assert all((value == reference[name]).all() for name, value in student.state_dict().items())


@pytest.mark.parametrize("expected", METHODS)
def test_a_method_with_a_teacher_deploys_it_others_the_first_student(build, expected):
    method = build(METHODS[expected], MODELS.get(expected, "fidnet"))
    has_teacher = getattr(method, "teacher", None) is not None
    assert has_teacher == (expected not in (Supervised, CPS, NeRF, Distill))
    assert method.deployed == ("teacher" if has_teacher else "student")
    assert method.deployed_model is method.segmentors()[method.deployed]
    assert method.deployed_model is (method.teacher.model if has_teacher else method.student)


def test_a_nerf_with_a_teacher_deploys_it(build):
    method = build(schema.NeRF(teacher="ema"), "minkunet")
    assert method.deployed_model is method.teacher.model


def test_every_method_of_the_recipe_is_built_here():
    names = {type(recipe).model_fields["name"].default for recipe in METHODS.values()}
    assert names == set(load.variants("method"))


def test_polarmix_pastes_the_things_of_the_data_set(build):
    with pytest.raises(RecipeError, match=r"method.instance_classes \[4, 5, 6, 7, 8, 9\]: expected class ids below 4"):
        build(schema.PolarMix())  # nuScenes has ten, the model of this test four classes
    assert build(schema.PolarMix(paste_ratio=0.0)).instance_classes == ()


def test_a_memory_in_shares_of_the_schedule_becomes_a_decay(build):
    method = build(schema.MeanTeacher(ema_memory_ratio=0.001))  # of 60,000 steps
    assert method.teacher.decay == pytest.approx(1 - 1 / 60)
    assert schema.MeanTeacher(ema_memory_ratio=0.01).decay_over(20) == 0.0  # less than one step: the student itself
    assert schema.MeanTeacher(ema_decay=0.9).decay_over(20) == 0.9
    with pytest.raises(ValueError, match="leave one out"):
        schema.MeanTeacher(ema_memory_ratio=0.01, ema_decay=0.9)


def test_gathering_waits_for_workers_that_have_equally_many_forwards():
    evidence = {"data.evidence": "layer", "data.evidence_dim": 6}
    changes = {"method": {"name": "distill", "gather": True}, "workers.num_workers": [2, 3], "train.micro_batch": 2}
    recipe = load.override(schema.Recipe(), {**evidence, **changes})
    with pytest.raises(RecipeError, match=r"method.gather waits for all workers.*set train.micro_batch=0"):
        check_evidence(recipe, has_text=True)
    for fine in (
        {"train.micro_batch": 0},
        {"workers.num_workers": 2},
        {"workers.use_gpu": "yes"},
        {"method.gather": False},
    ):
        check_evidence(load.override(recipe, fine), has_text=True)
