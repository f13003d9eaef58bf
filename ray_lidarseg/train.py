"""The verb ``train``: a recipe on Ray Train, one process per worker, resumable by the same call.

The driver checks everything that can be checked before a worker starts; each worker runs ``training.trainer.Trainer``,
which knows nothing of Ray. What a worker of this package raises on purpose ends the run at once and reaches the caller
as itself; a worker that dies is replaced, and all continue from the last whole checkpoint. With ``workers.num_workers``
a range, Ray starts as many as there is room for, and starts them anew where that changes. Where Ray hears that a node
is to be taken away (a spot instance), all save a checkpoint before it goes.
"""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any
from urllib.parse import quote

import ray
import torch
from ray.exceptions import RayActorError
from ray.train import (
    Checkpoint,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.context import get_train_context

from ray_lidarseg import storage
from ray_lidarseg.errors import LidarSegError, RunError, StorageError
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime import cluster
from ray_lidarseg.runtime.gauges import TrainGauges
from ray_lidarseg.runtime.leaving_nodes import LeavingNodes, Notices
from ray_lidarseg.runtime.resource_releaser import ResourceReleaser
from ray_lidarseg.storage.lock import held
from ray_lidarseg.training import checkpoints, completion
from ray_lidarseg.training.loop import Ranks
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import Evaluated, Plan, Trainer, continues, make_plan

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # elastic: Ray's own; so long it waits for a node that died
_RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # Ray's 2 s is also how long a report may wait
    _START_TIMEOUT: "180",  # importing torch on a loaded machine takes more than Ray's 60 s
}
_START_ATTEMPTS = 5  # of Ray's controller; without a limit it waits for lost resources for ever
_RESIZE_EVERY_S = 60.0  # Ray's own: how often an elastic run asks whether there is room for more workers


def train(recipe: Recipe, run: str, observer: UserCallback | None = None) -> RunFolder:
    """Trains a recipe, or continues where the run folder is; a finished run returns at once.

    Args:
        recipe: What to train, with ``data.prepared`` set.
        run: Path or ``s3://`` URI of the run folder; created where absent.
        observer: Called in Ray's controller with every evaluation. Its caller may be ended in the middle, as Ray Tune
            ends a trial: then the cluster gets the workers' resources back.

    Raises:
        RunError: The folder belongs to another recipe, its frames are gone or have changed, or training broke down.
        SplitError: The split selects nothing.
        DataError: The prepared shards are missing or broken.
        ResourceError: The cluster cannot hold the workers.
        StorageError: The run folder cannot be written, or another process trains in it.
    """
    folder, recipe = RunFolder(run), completion.complete(recipe)
    if continues(folder, recipe) and folder.is_finished():
        print(f"{folder.uri} is finished: {recipe.train.steps} steps", flush=True)
        return folder
    refuse_what_ray_misreads(folder.uri)
    storage.check_listable(folder.uri)
    storage.check_writable(folder.uri)
    with held(folder.uri, "train"):
        _train(recipe, folder, observer)
    return folder


def refuse_what_ray_misreads(run: str) -> None:
    """Ray Train writes into the run folder, too, and reads keys as percent-encoded URIs: ``#1`` would go elsewhere.

    Raises:
        StorageError: A key in a bucket that is not its own encoding.
    """
    key = "/".join(storage.parts_of(run))
    if not storage.is_local(run) and quote(key) != key:
        raise StorageError(
            f"cannot train in {run}: Ray takes this key for another one; use only letters, digits, and . _ - / in it"
        )


def _train(recipe: Recipe, folder: RunFolder, observer: UserCallback | None) -> None:
    plan, workers = make_plan(recipe, folder), recipe.workers
    with cluster.connect(math.ceil(workers.most * workers.cpus_per_worker)):
        use_gpu = _use_gpu(recipe)
        cluster.require(workers.least, workers.cpus_per_worker, float(use_gpu))
        folder.open(recipe, plan.frames, plan.start)
        # Ray's list of checkpoints may be torn by a crash; the folders themselves say which there are
        storage.remove_file(folder.path(checkpoints.FOLDER, "checkpoint_manager_snapshot.json"))
        _fit(plan, use_gpu, observer)
    folder.close()


def work(config: dict[str, Any]) -> None:
    """What each training worker runs, under Ray Train."""
    plan, context = config["plan"], ray.train.get_context()
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs every report of every rank to the root logger
    torch.set_num_threads(max(1, int(plan.recipe.workers.cpus_per_worker)))
    # A channels-last 1x1 kernel has two equal layouts, and DDP warns that it saw the other one.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), context.get_local_rank())
    if not ranks.rank:
        print(f"training on {ranks.world_size} worker(s)", flush=True)
    tell: Evaluated = _tell if config["is_observed"] else lambda step, lines: None
    Trainer(plan, ranks, get_device(), _Keeper(plan.run), _is_leaving, tell, TrainGauges(plan.run)).run()


def _tell(step: int, lines: list[dict[str, Any]]) -> None:
    """Hands an evaluation to the observer; every rank reports."""
    ray.train.report({"step": step, "evaluation": lines})


class _Keeper:
    """Writes checkpoints beside the training, one at a time, and tells Ray of each that is written; on every rank."""

    def __init__(self, run: str):
        self._run, self._is_written = run, Event()
        self._is_written.set()

    def __call__(self, step: int, content: bytes | None) -> None:
        self._is_written.wait()  # where storage is slower than training, training waits
        checkpoint, name = None, checkpoints.folder_name(step)

        def write(checkpoint: Checkpoint, _: str) -> Checkpoint:
            try:
                checkpoints.write(self._run, step, content or b"")
            finally:
                self._is_written.set()
            return checkpoint

        if content is not None:
            self._is_written.clear()
            place = get_train_context().storage_context
            checkpoint = Checkpoint(place.build_checkpoint_path_from_name(name), place.storage_filesystem)
        ray.train.report(
            {"step": step},
            checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,  # it is the one in the run folder
            checkpoint_upload_fn=write,
        )


def _is_leaving() -> bool:
    """What Ray told this worker; its public function is a barrier, and the step loop has one of its own."""
    return get_train_context().preemption_context.preemption_info is not None


class _OnFailure(UserCallback):
    """In Ray's controller: errors raised on purpose are not tried again, others are announced in one line."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            if (own := _own_error(error)) is not None:
                raise own
            print(f"training worker {rank} failed ({_first_line(error)}): back to the last checkpoint", flush=True)


class _WithoutList(ControllerCallback):
    """In Ray's controller: storage may be down while Ray notes its list of checkpoints, which nobody reads."""

    def after_controller_start(self, train_run_context: Any) -> None:
        write = CheckpointManager._write_state_to_storage

        def patient(manager: CheckpointManager) -> None:
            with suppress(OSError):
                write(manager)

        CheckpointManager._write_state_to_storage = patient


class _Trainer(TorchTrainer):
    """Without the actor that frees the resources of a dead controller, the one for Ray Data, and a handler for Ctrl-C.

    The first asks Ray's State API, which a Ray without dashboard lacks and which picks a foreign instance where several
    run on a machine. A driver ends with its controller here, and Ray frees the resources of a driver that ends. The
    second would hand out datasets, and there are none. Ray's handler waits for the workers and then calls ``sys.exit``;
    a run that is left ends them as well. A driver that is ended while its job goes on needs an actor like the first.
    In place of Ray's failure policy stands ``LeavingNodes``.
    """

    may_be_ended = False

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        kept = [item for item in callbacks if not isinstance(item, PlacementGroupCleanerCallback | DatasetsCallback)]
        return [*kept, ResourceReleaser()] if self.may_be_ended else kept

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        policy, noted = LeavingNodes(self.run_config.failure_config), [*parts["callbacks"], Notices()]
        return super()._initialize_and_run_controller(**{**parts, "failure_policy": policy, "callbacks": noted})

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _fit(plan: Plan, use_gpu: bool, observer: UserCallback | None) -> None:
    workers = plan.recipe.workers
    for name, value in _RAY_SETTINGS.items():
        if name != _START_TIMEOUT or workers.least == workers.most:
            os.environ.setdefault(name, value)
    trainer = _Trainer(
        work,
        train_loop_config={"plan": plan, "is_observed": observer is not None},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            elastic_resize_monitor_interval_s=_RESIZE_EVERY_S,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=checkpoints.FOLDER,
            storage_path=plan.run,
            failure_config=FailureConfig(
                workers.max_failures,
                controller_failure_limit=_START_ATTEMPTS,
                max_preemption_failures=workers.max_preemptions,
                relax_collectives_on_preemption=True,
                preemption_grace_s=0.0,  # ours: the checkpoint is written on notice, nothing is waited for
            ),
            callbacks=[_OnFailure(), _WithoutList(), *([observer] if observer else [])],
            worker_runtime_env=cluster.worker_runtime_env(),
            logging_config=LoggingConfig("CRITICAL"),  # _OnFailure speaks instead; Ray's log files hold everything
        ),
    )
    trainer.may_be_ended = observer is not None
    with _own_errors():
        trainer.fit()


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except (TrainingFailedError, RayActorError) as error:
        if (own := _own_error(error)) is not None:
            raise own from None
        if _is_death(error):
            raise RunError(
                f"training workers keep dying ({_first_line(error)}): if the machine runs out of memory, lower "
                "train.micro_batch or workers.num_workers; the same command continues from the last checkpoint"
            ) from error
        raise


def _own_error(error: BaseException | None) -> LidarSegError | None:
    """The error of this package somewhere inside what Ray wraps around it."""
    if error is None or isinstance(error, LidarSegError):
        return error
    inside = [getattr(error, name, None) for name in ("controller_failure", "cause", "_base_exc", "__cause__")]
    inside += getattr(error, "worker_failures", {}).values()
    found = (_own_error(part) for part in inside if isinstance(part, BaseException))
    return next((own for own in found if own is not None), None)


def _is_death(error: Exception) -> bool:
    failures = [error, *getattr(error, "worker_failures", {}).values()]
    return any(isinstance(failure, RayActorError) for failure in failures)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _use_gpu(recipe: Recipe) -> bool:
    wanted, workers = recipe.workers.use_gpu, recipe.workers.least
    if wanted != "auto":
        return wanted == "yes"
    gpus = cluster.num_gpus()
    if 0 < gpus < workers:
        print(f"{gpus:g} GPU for {workers} workers: training on CPUs (workers.num_workers={gpus:g} would use it)")
    return gpus >= workers
