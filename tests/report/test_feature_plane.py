from types import SimpleNamespace

import pytest

from ray_lidarseg.datasets.nuscenes import CLASSES
from ray_lidarseg.report.feature_plane import feature_planes

STRUCTURE = {
    "uniformity": 1.5,
    "source_uniformity": 1.75,
    "tolerance": 0.5,
    "source_tolerance": 0.25,
    "modality_gap": 0.125,
    "structural_gap": 0.5,
}


def view(**evaluation):
    return SimpleNamespace(name="mine", taxonomy=CLASSES, evaluation=evaluation)


def test_images_above_and_points_below_with_their_numbers():
    figure = feature_planes([view(), view(plane=[[3, 0.1, 0.2, 0.3, 0.4], [14, 1, 2, 3, 4]], structure=STRUCTURE)])
    above, below = figure.axes
    assert above.get_title() == "its images: U 1.75, T 0.25"
    assert below.get_title() == "mine: U 1.50, T 0.50, G 0.12, structural gap 0.50"
    assert above.collections[0].get_offsets()[0].tolist() == pytest.approx([0.3, 0.4])
    assert below.collections[0].get_offsets()[1].tolist() == [1, 2]
    colour = below.collections[0].get_facecolors()[0][:3]
    assert colour.tolist() == pytest.approx([value / 255 for value in CLASSES.colours[3]])


def test_without_a_distilled_run_there_is_no_picture():
    assert feature_planes([view(), view(plane=[])]) is None
