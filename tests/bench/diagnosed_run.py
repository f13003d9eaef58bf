"""`python -m tests.bench.diagnosed_run RECIPE FOLDER`: a run of `tests.bench.runs` with its last diagnosis, whole."""

import json
import sys
from pathlib import Path

from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.training.run_folder import RunFolder
from tests.bench.runs import FIGURES, train_here

_NOT_OF_IT = ("kind", "step")

if __name__ == "__main__":
    row, run = train_here(load_recipe(sys.argv[1]), Path(sys.argv[2])), RunFolder(sys.argv[2])
    last = [line for line in run.metrics() if line["kind"] == "diagnose"][-1]
    row |= {name: value for name, value in last.items() if name not in _NOT_OF_IT}
    run.write(FIGURES, json.dumps(row, indent=1).encode())
