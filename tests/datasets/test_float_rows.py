import io

import numpy as np
import pytest

from ray_lidarseg.datasets.float_rows import refuse_foreign, refuse_other_columns
from ray_lidarseg.errors import DataError


def scan(num_columns: int = 4) -> np.ndarray:
    """Rings of a scanner in a yard: x, y, z, intensity, ring, seconds, and as many more as wanted."""
    azimuth, ring = np.meshgrid(np.linspace(-np.pi, np.pi, 600), np.arange(16), indexing="ij")
    azimuth, ring = azimuth.ravel(), ring.ravel()
    rng = np.random.default_rng(0)
    far = 12 + 6 * np.sin(3 * azimuth) + 0.02 * rng.normal(size=azimuth.size)
    columns = [far * np.cos(azimuth), far * np.sin(azimuth), far * np.tan((ring - 12) / 40), rng.uniform(size=far.size)]
    columns += [ring, 1e-4 * np.arange(far.size), *(100.0 * rng.uniform(1, 2, far.size) for _ in range(10))]
    return np.stack(columns[:num_columns], axis=1).astype("<f4")


@pytest.mark.parametrize("stated", [4, 5, 6])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_the_true_number_of_columns_is_accepted(stated, is_shuffled):
    rows = scan(stated)
    refuse_other_columns(
        (np.random.default_rng(1).permutation(rows) if is_shuffled else rows).tobytes(), stated, "a.bin"
    )


@pytest.mark.parametrize("true", [3, 5, 6, 7, 9, 12, 16])
def test_another_number_of_columns_is_named(true):
    with pytest.raises(DataError, match=rf"^a.bin looks like {true} float32 columns, not 4: say which"):
        refuse_other_columns(scan(true).tobytes(), 4, "a.bin")


def test_columns_one_after_the_other_are_refused():
    with pytest.raises(DataError, match="looks like columns one after the other, not 4 float32 a point"):
        refuse_other_columns(scan().reshape(-1, 16, 4).transpose(2, 1, 0).tobytes(), 4, "a.bin")  # ring by ring


@pytest.mark.parametrize("kind", ["<f8", ">f4", ">f8", "<i4", "<i2"])
@pytest.mark.parametrize("columns", [3, 4])
def test_other_types_are_refused(kind, columns):
    values = scan()[:, :columns].astype(np.float64) * (100 if "i" in kind else 1)
    with pytest.raises(DataError, match=r"^a.bin: [xyz] holds values like .* as little-endian float32"):
        refuse_foreign(values.astype(kind).tobytes(), 4, "a.bin")


def written(save) -> bytes:
    stream = io.BytesIO()
    save(stream, scan())
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (written(np.save), r"it begins like a .npy file: give it that ending"),
        (written(np.savez), r"it begins like a .zip or .npz file"),
        (written(np.savetxt), r"a.bin is text, no .bin of float32"),
        (b"# .PCD v0.7 - Point Cloud Data file format\n" * 9, r"it begins like a .pcd file"),
    ],
)
def test_files_of_other_formats_are_named(content, said):
    with pytest.raises(DataError, match=said):
        refuse_foreign(content, 4, "a.bin")


@pytest.mark.parametrize("beams", [2, 3, 4])
def test_few_beams_that_fire_in_turn_are_no_further_columns(beams):
    rows = scan().reshape(-1, 16, 4)[:, :: 16 // beams][:, :beams]
    refuse_other_columns(rows.tobytes(), 4, "a.bin")


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, np.finfo(np.float32).max])
def test_missing_returns_are_no_sign(value):
    rows = scan()
    rows[::3, :3] = value
    refuse_other_columns(rows.tobytes(), 4, "a.bin")
    refuse_other_columns(np.full((2000, 4), value, "<f4").tobytes(), 4, "a.bin")


def test_real_scans_are_accepted_and_without_their_intensity_refused(samples):
    files = sorted(samples.rglob("*.bin"))
    assert len(files) >= 9
    for file in files:
        columns = 5 if file.name.endswith(".pcd.bin") else 4
        rows = np.fromfile(file, "<f4").reshape(-1, columns)
        refuse_other_columns(rows.tobytes(), columns, file.name)
        with pytest.raises(DataError, match="looks like 3 float32 columns"):
            refuse_other_columns(rows[:, :3].tobytes(), 4, file.name)
