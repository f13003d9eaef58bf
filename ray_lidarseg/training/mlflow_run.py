"""A run's lines in MLflow, where the recipe says ``tracking: mlflow:URI``; a run that is continued goes on in its own.

The package is optional (``pip install "ray-lidarseg[mlflow]"``). Credentials come from MLflow's environment variables.
A server that is down costs its lines: ``metrics.jsonl`` has them all.
"""

import json
import math
import os
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.errors import ResourceError
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.run_folder import RunFolder, flat

FILE = "mlflow.json"
_RETRIES = "2"  # ours: of a request; MLflow's own seven hold a step up for minutes
_DATABRICKS = "databricks"  # without a profile; every other word without a scheme is a folder
_MAX_PARAM = 500  # characters MLflow keeps of a value


def require(tracking: str) -> None:
    """Checks that the tracker of a recipe can be used; every recipe without one passes.

    Raises:
        ResourceError: The package is not installed, or nobody answers at the URI.
    """
    if tracking:
        _asked(tracking, lambda client: client.search_experiments(max_results=1))


def absolute_tracking(tracking: str) -> str:
    """The same tracker by a URI that names one place from every folder: workers run elsewhere than the command.

    A folder (plain, or ``file:`` with one) and the file of an SQLite base are made absolute; servers and profiles of
    MLflow's own (``http://…``, ``databricks``, ``uc:…``) stay as they are.
    """
    kind, _, uri = tracking.partition(":")
    scheme, _, rest = uri.partition(":")
    if uri == scheme != _DATABRICKS:
        return f"{kind}:{storage.absolute(uri)}"
    if scheme == "file" and not rest.startswith("/"):
        return f"{kind}:file:{storage.absolute(rest)}"
    if scheme == "sqlite" and rest.startswith("///") and not rest.startswith("////") and rest != "///:memory:":
        return f"{kind}:sqlite:///{storage.absolute(rest[3:])}"  # three slashes, then a path: four where it is absolute
    return tracking


class MLflowRun:
    """Takes lines of a run.

    Args:
        folder: The run's; keeps the id of the tracker's run.
        recipe: Its parameters, name and ``tracking``.

    Raises:
        ResourceError: See ``require``.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe):
        self._tracking, self._is_silent = recipe.tracking, False
        self._id = self._known(folder) or self._begun(folder, recipe)
        there = _asked(self._tracking, lambda client: client.get_run(self._id)).data.metrics
        self._logged = {key.rpartition("/")[0]: int(value) for key, value in there.items() if key.endswith("/step")}

    def record(self, line: dict[str, Any]) -> None:
        """Takes one line; those an earlier attempt has logged are the same and left out."""
        from mlflow.entities import Metric

        prefix, step = line.get("model", line["kind"]), line["step"]
        if step <= self._logged.get(prefix, -1):
            return
        is_number = {key: float(value) for key, value in line.items() if isinstance(value, int | float)}
        metrics = [
            Metric(f"{prefix}/{key}", value, 0, step) for key, value in is_number.items() if math.isfinite(value)
        ]
        self._told(lambda client: client.log_batch(self._id, metrics))

    def close(self) -> None:
        """Notes that the run got to its last step."""
        self._told(lambda client: client.set_terminated(self._id))

    def _known(self, folder: RunFolder) -> str:
        """The tracker's run that this run has begun there; empty where it has not."""
        if not storage.exists(folder.path(FILE)):
            return ""
        noted = json.loads(storage.read_bytes(folder.path(FILE)))
        if noted["tracking"] != self._tracking:
            return ""
        _asked(self._tracking, lambda client: client.update_run(noted["run_id"], status="RUNNING"))
        return str(noted["run_id"])

    def _begun(self, folder: RunFolder, recipe: Recipe) -> str:
        def begin(client: Any) -> str:
            experiment = client.get_experiment_by_name(recipe.name)
            number = experiment.experiment_id if experiment else client.create_experiment(recipe.name)
            tags = {"fingerprint": recipe.fingerprint, "run_folder": folder.uri}
            run_id = client.create_run(number, run_name=folder.uri.rpartition("/")[2], tags=tags).info.run_id
            for key, value in flat(recipe.model_dump(mode="json")).items():
                client.log_param(run_id, key, str(value)[:_MAX_PARAM])
            return str(run_id)

        run_id = _asked(self._tracking, begin)
        folder.write(FILE, json.dumps({"tracking": self._tracking, "run_id": run_id}).encode())
        return run_id

    def _told(self, tell: Any) -> None:
        try:
            _asked(self._tracking, tell)
        except ResourceError as error:
            if not self._is_silent:
                print(f"WARNING: {error}; the run goes on, and metrics.jsonl has every line", flush=True)
            self._is_silent = True


def _asked(tracking: str, ask: Any) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _RETRIES)
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is one of the places a URI may name
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ResourceError(
            f"tracking={tracking} needs the package mlflow, which is not installed: pip install "
            '"ray-lidarseg[mlflow]", or leave tracking out'
        ) from error
    try:
        return ask(MlflowClient(tracking.removeprefix("mlflow:")))
    except (MlflowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise ResourceError(
            f"tracking={tracking} does not answer ({first}): correct it, or leave tracking out"
        ) from error
