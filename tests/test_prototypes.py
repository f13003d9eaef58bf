"""The verb `prototypes`: what it refuses before a picture is embedded."""

import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.prototypes import prototypes
from tests.training.prepared_features import write_seen_walls


def test_words_of_another_data_set_than_the_shards_are_refused(tmp_path):
    walls = write_seen_walls(str(tmp_path / "prepared"), words=None)
    with pytest.raises(DataError, match=r"holds nuscenes frames.*words of semantickitti's classes: give --dataset"):
        prototypes(str(tmp_path / "out.npz"), dataset="semantickitti", pictures=str(tmp_path), prepared=walls)
    assert not (tmp_path / "out.npz").exists()
