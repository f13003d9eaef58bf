import platform
import subprocess
import sys

import pytest
import torch

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse import mkl_switch
from ray_lidarseg.sparse.mkl_switch import let_mkl_use_all_instructions

SCRIPT = """
import torch
from ray_lidarseg.sparse.mkl_switch import let_mkl_use_all_instructions
let_mkl_use_all_instructions()
x, weight = torch.randn(500, 64), torch.randn(64, 64)
exact = x.double() @ weight.double()
print(float((x @ weight - exact).norm() / exact.norm()))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not torch.backends.mkl.is_available(),
    reason="torch has no MKL here",
)
def test_products_are_float32s_in_a_process_that_took_it():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-6


def test_other_machines_are_told_what_to_do(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ResourceError, match=r"needs Linux on x86-64, this is .* on aarch64: set it to false"):
        let_mkl_use_all_instructions()


def test_another_mkl_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(mkl_switch, "_FUNCTION", "no_such_function")
    with pytest.raises(ResourceError, match="has no no_such_function"):
        let_mkl_use_all_instructions()
