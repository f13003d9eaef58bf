"""Two hundred damaged files a reader; ``python -m tests.bench.fuzz`` runs eleven thousand."""

import pytest

from tests.fuzz.readers import READERS, Reader
from tests.fuzz.running import FAILURES, run_case

SEED = 11
CASES = 200


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_refused_in_our_words_or_read_as_they_are(reader: Reader) -> None:
    outcomes = [run_case(reader, SEED, number) for number in range(CASES)]
    failed = [outcome.detail for outcome in outcomes if outcome.kind in FAILURES]
    assert not failed, f"{len(failed)} of {CASES}; the first:\n{failed[0]}"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_the_whole_files_are_read(reader: Reader, tmp_path) -> None:
    for number, (name, content) in enumerate(reader.files):
        folder = tmp_path / str(number)
        folder.mkdir()
        reader.read(name, content, folder)
