"""Weights with a digest in their metadata: flipped bits are noticed, files of others are read as they are."""

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.weight_files import check_weights, load_weights, save_weights

TENSORS = {
    "half": torch.arange(300, dtype=torch.float16),
    "brain": torch.ones(3, 5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
}


def _equal(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


def test_what_is_written_comes_back_for_any_reader(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(TENSORS, file)
    assert _equal(load_weights(file), TENSORS)
    assert _equal(load_file(file), TENSORS)
    check_weights(file)


def test_no_flipped_bit_is_read_as_if_nothing_were(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(TENSORS, file)
    data, silent, noticed = file.read_bytes(), 0, 0
    for position in np.random.default_rng(0).choice(8 * len(data), 400, replace=False):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << (position % 8)
        file.write_bytes(flipped)
        try:
            silent += not _equal(load_weights(file), TENSORS)
        except (DataError, SafetensorError):
            noticed += 1
    assert (silent, noticed > 300) == (0, True)


def test_a_flipped_weight_says_what_to_do(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(TENSORS, file)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"w.safetensors has changed since it was written .*copy or download it again"):
        check_weights(file)


def test_a_file_without_a_digest_is_read_as_it_is(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert _equal(load_weights(tmp_path / "w.safetensors"), TENSORS)
    torch.save(TENSORS, tmp_path / "w.pth")
    check_weights(tmp_path / "w.pth")
