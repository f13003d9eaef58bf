import io

import numpy as np
import pytest
import torch

from ray_lidarseg import storage
from ray_lidarseg.errors import RunError
from ray_lidarseg.training import checkpoints


def _write(run, step, data=None):
    data = checkpoints.pack({"step": step, "weights": torch.arange(3)}) if data is None else data
    storage.write_bytes(f"{run}/checkpoints/{checkpoints.folder_name(step)}/{checkpoints.FILE}", data)


def test_round_trip():
    state = checkpoints.unpack(checkpoints.pack({"step": 3, "x": torch.tensor([1.5]), "text": "a\n"}))
    assert (state["step"], state["x"].tolist(), state["text"]) == (3, [1.5], "a\n")


def test_a_checkpoint_runs_no_code():
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    with pytest.raises(RunError, match="not whole"):
        checkpoints.unpack(checkpoints.pack({"evil": Evil()}))


def test_a_checkpoint_of_another_version_is_refused():
    with pytest.raises(RunError, match="version 99"):
        checkpoints.unpack(checkpoints.pack({"version": 99}))


@pytest.mark.parametrize("keep", [0, 1, 100, 400])
def test_a_torn_file_is_noticed(keep):
    with pytest.raises(RunError, match="not whole"):
        checkpoints.unpack(checkpoints.pack({"x": torch.zeros(100)})[:keep])


def test_no_flipped_bit_is_loaded_as_if_nothing_were():
    data = checkpoints.pack({"step": 3, "x": torch.arange(2000.0)})
    rng, silent = np.random.default_rng(0), 0
    for position in rng.choice(8 * len(data), 400, replace=False):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << (position % 8)
        try:
            state = checkpoints.unpack(bytes(flipped))
        except RunError:
            continue
        silent += state["x"].tolist() != list(range(2000)) or state["step"] != 3
    assert silent == 0


def test_a_file_of_an_earlier_release_has_no_digest_and_loads_and_torch_reads_ours():
    buffer = io.BytesIO()
    torch.save({"version": checkpoints.VERSION, "step": 4}, buffer)
    assert checkpoints.unpack(buffer.getvalue())["step"] == 4
    packed = checkpoints.pack({"step": 4})
    assert torch.load(io.BytesIO(packed), weights_only=True) == {"version": 1, "step": 4}
    assert checkpoints.unpack(packed)["sha256"] == checkpoints.unpack(packed[: -checkpoints._DIGEST_BYTES])["sha256"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys):
    _write(str(tmp_path), 10)
    data = bytearray(checkpoints.pack({"step": 20, "weights": torch.arange(3)}))
    data[len(data) // 2] ^= 1
    _write(str(tmp_path), 20, bytes(data))
    assert checkpoints.load_latest(str(tmp_path))["step"] == 10
    assert "step 20: the checkpoint is not whole" in capsys.readouterr().out
    with pytest.raises(RunError, match="bits have flipped"):
        checkpoints.load(str(tmp_path), 20)


def test_the_newest_whole_checkpoint_counts(tmp_path):
    run = str(tmp_path)
    assert checkpoints.load_latest(run) is None
    for step in (10, 20):
        _write(run, step)
    _write(run, 30, checkpoints.pack({"step": 30})[:-20])
    storage.write_bytes(f"{run}/checkpoints/step_00000040/other", b"")
    storage.write_bytes(f"{run}/checkpoints/checkpoint_manager_snapshot.json", b"{}")
    assert checkpoints.steps(run) == [10, 20, 30, 40]
    assert checkpoints.load_latest(run)["step"] == 20
    assert checkpoints.load_latest(run, at_most=19)["step"] == 10


def test_an_absent_step_lists_what_there_is(tmp_path):
    _write(str(tmp_path), 10)
    with pytest.raises(RunError, match="no checkpoint after 11 steps; there are: 10"):
        checkpoints.load(str(tmp_path), 11)


def test_prune_keeps_the_newest_and_the_best_and_does_not_count_on_what_is_being_written(tmp_path):
    for step in (1, 2, 3, 4, 5):
        _write(str(tmp_path), step)
    checkpoints.prune(str(tmp_path), 2, best_step=1)
    assert checkpoints.steps(str(tmp_path)) == [1, 4, 5]
    checkpoints.prune(str(tmp_path), 1, writing=5)
    assert checkpoints.steps(str(tmp_path)) == [4, 5]
