from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions.corrupt import corrupt, without_effect
from ray_lidarseg.datasets.corruptions.severities import setting, settings
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.image_scans import pseudo_camera
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.ontology import parse_ontology
from ray_lidarseg.types import IGNORE

SPEC = nuscenes.SPEC
OWN = """
name: own
classes: [{name: other-ground, raw_ids: [1]}, {name: carpet, raw_ids: [2]}, {name: tram, synonyms: [bus], raw_ids: [3]}]
sensor: {num_beams: 64, fov_up_deg: 3, fov_down_deg: -25, min_range_m: 1, max_range_m: 80, intensity: [0, 1]}
"""


@pytest.mark.parametrize("chosen", settings("nuscenes"), ids=lambda one: one.name)
def test_every_form_is_the_same_every_time_and_leaves_the_frame_itself_alone(street, chosen):
    before = street.points.copy(), street.labels.copy()
    one, two = (corrupt(street, chosen, SPEC, SPEC.sensor) for _ in range(2))
    np.testing.assert_array_equal(one.points, two.points)
    np.testing.assert_array_equal(street.points, before[0])
    np.testing.assert_array_equal(street.labels, before[1])
    assert len(one.points) == len(one.labels) == len(one.ring)
    assert one.points.dtype == np.float32
    assert one.labels.dtype == np.uint8
    assert np.isfinite(one.points).all()
    assert set(np.unique(one.labels)) <= {10, 14, IGNORE}


def test_every_frame_and_every_severity_draws_its_own(street):
    forms = [setting("nuscenes", "motion_blur", severity) for severity in ("light", "moderate")]
    other = replace(street, frame_id="other")
    light, moderate = (corrupt(street, form, SPEC, SPEC.sensor).points - street.points for form in forms)
    elsewhere = corrupt(other, forms[0], SPEC, SPEC.sensor).points - street.points
    assert not np.allclose(light / 0.2, moderate / 0.3, atol=1e-3)
    assert not np.allclose(light, elsewhere, atol=1e-3)


@pytest.mark.parametrize("chosen", settings("nuscenes")[::3], ids=lambda one: one.name)
def test_points_that_are_not_finite_come_last_as_they_were(street, chosen):
    points = street.points.copy()
    points[5], points[7, 3] = np.nan, np.inf
    result = corrupt(replace(street, points=points), chosen, SPEC, SPEC.sensor)
    np.testing.assert_array_equal(result.points[-2:], points[[5, 7]])
    np.testing.assert_array_equal(result.labels[-2:], street.labels[[5, 7]])
    assert np.isfinite(result.points[:-2]).all()


@pytest.mark.parametrize("chosen", settings("semantickitti")[::3], ids=lambda one: one.name)
def test_a_scan_without_points_stays_as_it_is(street, chosen):
    empty = replace(street, points=np.zeros((0, 4), np.float32), labels=street.labels[:0], ring=street.ring[:0])
    assert corrupt(empty, chosen, semantickitti.SPEC, semantickitti.SPEC.sensor) is empty


def test_weather_leaves_scans_without_intensity_alone_and_says_so(street):
    spec = dataset_named("manifest", parse_ontology(OWN.replace("[0, 1]", "none")))
    for corruption in ("fog", "wet_ground", "snow"):
        assert corrupt(street, setting("manifest", corruption, "heavy"), spec, spec.sensor) is street
    assert corrupt(street, setting("manifest", "crosstalk", "heavy"), spec, spec.sensor) is not street
    assert without_effect(spec) == ["fog, wet_ground, snow change nothing: own has no intensity"]


def test_scans_without_labels_and_images_are_refused(street):
    chosen = setting("nuscenes", "fog", "light")
    with pytest.raises(DataError, match=r"street has 7680 points and 0 labels: corruptions need a label"):
        corrupt(replace(street, labels=street.labels[:0]), chosen, SPEC, SPEC.sensor)
    with pytest.raises(DataError, match="street is an image: fog corrupts LiDAR scans"):
        corrupt(street, chosen, SPEC, pseudo_camera(4, 4))


def test_own_logs_tell_ground_and_vehicles_by_the_names_of_their_classes():
    spec = dataset_named("manifest", parse_ontology(OWN))
    assert spec.ground == (0,)
    assert spec.vehicles == (2,)  # by its synonym; no carpet is a car
    assert without_effect(spec) == []
    nameless = dataset_named("manifest", parse_ontology(OWN.replace("other-ground", "a")))
    assert without_effect(nameless) == ["wet_ground changes nothing: no class of own is named as ground"]
    other_things = OWN.replace("other-ground", "road sign").replace("synonyms: [", "synonyms: [parking meter, ")
    assert dataset_named("manifest", parse_ontology(other_things)).ground == ()
    place = OWN.replace("synonyms: [bus]", "synonyms: [bus lane]")
    assert dataset_named("manifest", parse_ontology(place)).ground == (0, 2)
    assert dataset_named("manifest", parse_ontology(place)).vehicles == ()
    assert without_effect(nuscenes.SPEC) == without_effect(semantickitti.SPEC) == []
    assert [nuscenes.CLASSES.class_names[train] for train in SPEC.ground] == [
        "driveable_surface",
        "other_flat",
        "sidewalk",
    ]
