"""The step loop in one process, with a method small enough to check by hand."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector

from ray_lidarseg.datasets.division import slots_of
from ray_lidarseg.errors import RunError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.training import loop as module
from ray_lidarseg.training.loop import BatchStatistics, Hooks, Ranks, StepLoop, run, seed_of

CPU = torch.device("cpu")


class Toy(Method):
    """Regresses intensity from the coordinates, with batch norm, dropout, noise and an EMA copy of one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.register_buffer("average", torch.zeros(1, 4))
        self.poison_steps: set[float] = set()
        self.progresses: list[float] = []

    def step(self, labelled, unlabelled, progress, generator):
        self.progresses.append(progress)
        noise = torch.randn(len(labelled), 1, generator=generator)
        error = (self.student(labelled.points[:, :3])[:, 0] - labelled.points[:, 3] + 0.1 * noise[:, 0]) ** 2
        fit = error.mean() * (math.nan if progress in self.poison_steps else 1.0)
        return Losses({"fit": fit, "other": 0.5 * error.mean()}, {"points_ratio": torch.tensor(1.0)})

    def after_step(self, progress):
        self.average.lerp_(self.student[3].weight.detach(), 0.5)

    def segmentors(self):
        return {}


def _recipe(**changes) -> Recipe:
    base = {"optim.lr": 0.05, "optim.schedule": "constant", "method.name": "supervised", "workers.num_workers": 1}
    sizes = {"labelled_per_step": 2, "unlabelled_per_step": 2, "steps": 8, "log_every": 1, "evaluate_every": 4}
    train = {f"train.{key}": value for key, value in {**sizes, "checkpoint_every": 4}.items()}
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return override(
        Recipe(), {**{key: changes[key] for key in changes if key.endswith(".name")}, **base, **train, **changes}
    )


def _scan(seed: int, num_points: int = 6) -> PointBatch:
    return PointBatch.of_scan(torch.rand(num_points, 4, generator=torch.Generator().manual_seed(seed)))


def _steps(start: int, stop: int, micro: int = 1):
    for step in range(start, stop):
        yield [(_scan(10 * step + part), _scan(1)) for part in range(micro)]


def _hooks():
    seen = SimpleNamespace(lines=[], evaluated=[], saved=[])
    return seen, Hooks(seen.lines.append, lambda step: bool(seen.evaluated.append(step)), seen.saved.append)


def _loss(lines):
    return [line["loss_total"] for line in lines]


def test_a_resumed_run_repeats_the_undisturbed_one_bit_by_bit():
    recipe = _recipe()
    whole = StepLoop(Toy(), recipe, CPU, Ranks())
    everything, hooks = _hooks()
    run(whole, _steps(0, 8), hooks)
    first, second = (StepLoop(Toy(), recipe, CPU, Ranks()) for _ in range(2))
    run(first, _steps(0, 5), _hooks()[1])
    second.load_state_dict(first.state_dict())
    rest, hooks = _hooks()
    run(second, _steps(5, 8), hooks)
    assert _loss(rest.lines) == _loss(everything.lines)[5:]
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name


def test_what_happens_at_which_step():
    loop = StepLoop(Toy(), _recipe(train__steps=10, train__log_every=3, train__evaluate_first=True), CPU, Ranks())
    seen, hooks = _hooks()
    run(loop, _steps(0, 10), hooks)
    assert [line["step"] for line in seen.lines] == [1, 3, 6, 9, 10]
    assert seen.evaluated == [0, 4, 8, 10]
    assert seen.saved == [4, 8, 10]
    assert loop.method.progresses == [step / 10 for step in range(10)]


def test_a_machine_about_to_leave_is_worth_one_checkpoint_and_so_is_a_best_evaluation():
    loop = StepLoop(Toy(), _recipe(train__steps=10, train__evaluate_every=2), CPU, Ranks())
    seen, hooks = _hooks()
    evaluate = lambda step: bool(seen.evaluated.append(step)) or step == 6  # noqa: E731
    run(loop, _steps(0, 10), Hooks(hooks.record, evaluate, hooks.save, lambda: loop.step in (2, 3, 8)))
    assert seen.saved == [
        3,
        4,
        6,
        8,
        9,
        10,
    ]  # after the step in which it was told, the rhythm's 4 and 8, the best, the end


def test_a_line_holds_losses_stats_rate_and_speed():
    seen, hooks = _hooks()
    run(StepLoop(Toy(), _recipe(), CPU, Ranks()), _steps(0, 1), hooks)
    line = seen.lines[0]
    assert line["loss_total"] == pytest.approx(line["loss_fit"] + line["loss_other"])
    assert line["loss_fit"] == pytest.approx(2 * line["loss_other"])
    assert (line["points_ratio"], line["lr"], line["skipped_steps"]) == (1.0, 0.05, 0)
    assert line["scans_per_s"] > 0
    assert 0 <= line["data_wait_ratio"] <= 1
    assert 0.01 < line["memory_gib"] < 100


def test_micro_batches_add_up_to_the_mean_gradient():
    class Slope(Method):
        def __init__(self):
            super().__init__()
            self.student = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.student.weight)

        def step(self, labelled, unlabelled, progress, generator):
            return Losses({"slope": (self.student(labelled.points[:, 3:]) * labelled.points[:, :1]).mean()})

    def weight_after(parts):
        optim = {"optim__name": "sgd", "optim__momentum": 0.0, "optim__weight_decay": 0.0, "optim__lr": 1.0}
        loop = StepLoop(Slope(), _recipe(**optim), CPU, Ranks())
        loop.one_step(parts)
        return loop.method.student.weight.item()

    one, two, three = _scan(1), _scan(2), _scan(3)
    mean = -torch.stack([(scan.points[:, 0] * scan.points[:, 3]).mean() for scan in (one, two, three)]).mean().item()
    pack = PointBatch.pack
    assert weight_after([(pack([one, two, three]), pack([one] * 3))]) == pytest.approx(mean)
    assert weight_after([(pack([one, two]), pack([one, one])), (three, one)]) == pytest.approx(mean)


def test_micro_batches_of_streams_of_different_length_take_the_same_step():
    """All scans of a stream are the same one, so batch norms normalise alike however many come at once."""
    sensor, generator = SensorSpec(8, math.radians(10), math.radians(-30), 1.0, 50.0, 1.0), torch.Generator()
    scans = [torch.rand(200, 4, generator=generator.manual_seed(seed)) * 20 - 10 for seed in (1, 2)]
    labels = torch.arange(200) % 3
    streams = PointBatch.of_scan(scans[0], labels), PointBatch.of_scan(scans[1], labels).unlabelled()
    settings = {"method__name": "mean_teacher", "train__labelled_per_step": 2, "train__unlabelled_per_step": 6}
    size = {"model__height_px": 8, "model__width_px": 32, "model__width_factor": 0.125, "model__blocks": [1, 1, 1, 1]}
    sgd = {"optim__name": "sgd", "optim__momentum": 0.0, "optim__grad_clip_norm": 0.0, "train__amp": "off"}

    def begun(micro_batch: int) -> StepLoop:
        recipe = _recipe(**settings, **size, **sgd, train__micro_batch=micro_batch)
        torch.manual_seed(0)
        loop = StepLoop(build_method(recipe, sensor, 3).train(), recipe, CPU, Ranks())
        with torch.no_grad():  # a teacher equal to its student would agree with it
            for parameter in loop.method.teacher.parameters():
                parameter.mul_(1.5)
        return loop

    def stepped(loop: StepLoop) -> dict[str, torch.Tensor]:
        return loop.one_step(
            [
                tuple(PointBatch.pack([scan] * len(slots)) for scan, slots in zip(streams, pair, strict=True))
                for pair in slots_of(loop.recipe, (2, 6), 0, 1)
            ]
        )

    unmoved, whole, parts = begun(0), begun(0), begun(2)
    expected, said = stepped(whole), stepped(parts)
    assert min(value for name, value in expected.items() if name.startswith("loss_")) > 0
    for name, value in expected.items():
        torch.testing.assert_close(said[name], value, rtol=1e-4, atol=0.0, msg=name)
    begin, once, again = (
        parameters_to_vector(loop.method.student.parameters()).detach() for loop in (unmoved, whole, parts)
    )
    assert (again - once).norm() < 1e-3 * (once - begin).norm()


def test_every_coordinate_of_the_seed_counts():
    seeds = {seed_of(*c) for c in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    loop = StepLoop(Toy(), _recipe(), CPU, Ranks())
    loop.method.poison_steps = {1 / 8}
    seen, hooks = _hooks()
    run(loop, _steps(0, 1), hooks)
    before = {name: value.clone() for name, value in loop.method.state_dict().items() if "num_batches" not in name}
    run(loop, _steps(1, 2), hooks)
    assert all(torch.equal(value, loop.method.state_dict()[name]) for name, value in before.items())
    run(loop, _steps(2, 3), hooks)
    assert [line["skipped_steps"] for line in seen.lines] == [0, 1, 1]
    assert math.isnan(seen.lines[1]["loss_fit"])
    assert not torch.equal(before["student.3.weight"], loop.method.state_dict()["student.3.weight"])


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped_too():
    class Root(Toy):
        def step(self, labelled, unlabelled, progress, generator):
            return Losses({"root": torch.sqrt(0.0 * self.student(labelled.points[:, :3]).sum().abs())})

    loop = StepLoop(Root(), _recipe(), CPU, Ranks())
    run(loop, _steps(0, 1), _hooks()[1])
    assert loop.skipped_steps == 1


def test_twenty_in_a_row_end_the_run(monkeypatch):
    monkeypatch.setattr(module, "MAX_SKIPPED_IN_A_ROW", 3)
    loop = StepLoop(Toy(), _recipe(), CPU, Ranks())
    loop.method.poison_steps = {step / 8 for step in (0, 1, 3, 4, 5)}
    with pytest.raises(RunError, match=r"step 6: 3 steps in a row.*lower optim.lr"):
        run(loop, _steps(0, 8), _hooks()[1])


def test_batch_statistics_are_all_running_means_and_variances():
    method = Toy()
    statistics = BatchStatistics(method)
    assert statistics.read().tolist() == [0.0] * 4 + [1.0] * 4
    statistics.write(torch.arange(8.0))
    assert method.student[1].running_var.tolist() == [4.0, 5.0, 6.0, 7.0]
    assert len(BatchStatistics(nn.Linear(2, 2)).read()) == 0


def test_a_step_in_bf16_computes_in_it_and_keeps_parameters_whole():
    def stepped(amp: str) -> tuple[StepLoop, float, set[torch.dtype]]:
        loop, seen = StepLoop(Toy(), _recipe(train__amp=amp), CPU, Ranks()), set()
        loop.method.student[0].register_forward_hook(lambda _, __, output: seen.add(output.dtype))
        return loop, float(loop.one_step(next(iter(_steps(0, 1))))["loss_total"]), seen

    (loop, in_half, types), (_, in_full, full_types) = stepped("bf16"), stepped("off")
    assert (types, full_types) == ({torch.bfloat16}, {torch.float32})
    assert in_half == pytest.approx(in_full, rel=0.02)
    parameters = list(loop.method.parameters())
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in parameters)


def test_auto_stays_what_it_was_where_another_machine_resumes(monkeypatch):
    monkeypatch.setattr(module, "precision", lambda *_: torch.bfloat16)
    fast = StepLoop(Toy(), _recipe(), CPU, Ranks()).state_dict()
    monkeypatch.setattr(module, "precision", lambda *_: None)
    slow = StepLoop(Toy(), _recipe(), CPU, Ranks())
    del (older := slow.state_dict())["precision"]
    slow.load_state_dict(fast)
    assert slow.precision == torch.bfloat16
    asked = StepLoop(Toy(), _recipe(train__amp="off"), CPU, Ranks())
    asked.load_state_dict(fast)
    assert asked.precision is None
    slow.load_state_dict(older)  # as older versions wrote it
    assert slow.precision == torch.bfloat16


def _rank(port: str, folder: str, number: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    rank = int(number)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    loop = StepLoop(Toy(), _recipe(workers__num_workers=2), CPU, Ranks(rank, 2))
    if rank == 1:
        loop.method.poison_steps = {2 / 8}
    seen, hooks = _hooks()
    steps = ([(_scan(100 * rank + step), _scan(1)), (_scan(step + 50), _scan(2))] for step in range(4))
    run(loop, steps, hooks)
    assert loop.ranks.least(5 + rank, CPU) == 5
    state = {name: value for name, value in loop.method.state_dict().items() if "num_batches" not in name}
    torch.save({"state": state, "losses": _loss(seen.lines), "skipped": loop.skipped_steps}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # no interpreter end: a thread of gloo that DDP started may ask it for the lock then, and aborts


def test_two_ranks_stay_the_same_also_when_one_meets_a_nan(tmp_path):
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, __file__, str(port), str(tmp_path)]  # not forked: autograd does not survive a fork
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert one["skipped"] == other["skipped"] == 1
    assert one["losses"][:2] == other["losses"][:2]
    assert all(torch.equal(value, other["state"][name]) for name, value in one["state"].items())


if __name__ == "__main__":
    _rank(*sys.argv[1:])
