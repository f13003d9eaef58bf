import doctest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ray_lidarseg.storage import file_names
from ray_lidarseg.storage.file_names import file_name, relative_file

IDS = st.one_of(
    st.text(st.sampled_from("aA0/.%2F ~\\?#"), max_size=12),
    st.text(st.characters(), max_size=40),
    st.text(st.sampled_from("ab/"), min_size=150, max_size=400),
)


def test_examples() -> None:
    assert doctest.testmod(file_names).failed == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("08", "08"),
        ("n015-2018-11-21__LIDAR_TOP", "n015-2018-11-21__LIDAR_TOP"),
        ("a b", "a b"),
        (" a.b", "%20a%2Eb"),
        (".unfinished-x", "%2Eunfinished-x"),
        ("a.", "a%2E"),
        ("50%", "50%25"),
        ("a\0", "a%00"),
        ("ü", "%C3%BC"),
        ("\ud800", "%ED%A0%80"),
        ("C:\\x", "C%3A%5Cx"),
    ],
)
def test_names_by_hand(text: str, name: str) -> None:
    assert file_name(text) == name


def test_long_names_keep_their_beginning_and_stay_apart() -> None:
    first, second = file_name("a" * 161), file_name("a" * 162)
    assert first[:128] == second[:128] == "a" * 128
    assert first[128] == "~"
    assert first != second
    assert file_name("a" * 160) == "a" * 160


@given(st.sets(IDS, min_size=2, max_size=6))
@settings(max_examples=300, deadline=None)
def test_no_two_ids_share_a_file(ids: set[str]) -> None:
    assert len({file_name(text) for text in ids}) == len(ids)
    assert len({relative_file(text) for text in ids}) == len(ids)


@given(IDS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_id_stays_in_its_folder_and_can_be_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / relative_file(text)
    assert not {"", ".", ".."}.intersection(relative_file(text).split("/"))
    assume(not any(part.is_file() for part in path.parents) and not path.is_dir())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert path.resolve().is_relative_to(tmp_path.resolve())
