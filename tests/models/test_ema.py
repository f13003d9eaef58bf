import math

import pytest
import torch
from torch import nn

from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(32, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


def tiny() -> FIDNet:
    torch.manual_seed(0)
    return FIDNet(SENSOR, 3, height_px=8, width_px=32, width_factor=0.125, blocks=(1, 1, 1, 1))


def batch() -> PointBatch:
    points = 10 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 1, 0.1, 0.05])
    return PointBatch.of_scan(points)


def set_all(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(value)


def test_starts_as_an_exact_frozen_copy():
    student = tiny()
    teacher = EMATeacher(student, 0.99, "average")
    for key, value in student.state_dict().items():
        assert torch.equal(teacher.model.state_dict()[key], value)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}


@pytest.mark.parametrize(
    ("rule", "statistics", "num_batches"), [("average", 1.75, 4), ("copy", 4.0, 4), ("own", 1.0, 1)]
)
def test_update_by_hand(rule, statistics, num_batches):
    student = tiny()
    set_all(student, 1.0)
    teacher = EMATeacher(student, 0.75, rule)
    set_all(student, 4.0)
    teacher.update(student)  # 0.75 · 1 + 0.25 · 4
    assert all(torch.equal(p, torch.full_like(p, 1.75)) for p in teacher.parameters())
    norm = next(m for m in teacher.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert torch.equal(norm.running_var, torch.full_like(norm.running_var, statistics))
    assert int(norm.num_batches_tracked) == num_batches


def test_many_updates_are_a_geometric_series():
    student = tiny()
    set_all(student, 0.0)
    teacher = EMATeacher(student, 0.9, "average")
    set_all(student, 1.0)
    for _ in range(20):
        teacher.update(student)
    for parameter in teacher.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 1 - 0.9**20))


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 3.0), (1.0, 1.0)])
def test_limits_of_decay_are_exact(decay, expected):
    student = tiny()
    set_all(student, 1.0)
    teacher = EMATeacher(student, decay, "average")
    set_all(student, 3.0)
    teacher.update(student)
    assert all(torch.equal(p, torch.full_like(p, expected)) for p in teacher.parameters())


@pytest.mark.parametrize(("rule", "gathers"), [("average", False), ("copy", False), ("own", True)])
def test_only_own_buffers_gather_statistics_in_training(rule, gathers):
    teacher = EMATeacher(tiny().train(), 0.99, rule)
    owner = nn.ModuleDict({"teacher": teacher})
    owner.eval()
    owner.train()
    assert all(module.training == gathers for module in teacher.modules())
    before = {key: value.clone() for key, value in teacher.model.named_buffers()}
    output = teacher(batch())
    assert not output.cell_logits.requires_grad
    changed = any(not torch.equal(before[key], value) for key, value in teacher.model.named_buffers())
    assert changed == gathers
    owner.eval()
    assert not any(module.training for module in teacher.modules())


def test_state_survives_a_checkpoint(tmp_path):
    teacher = EMATeacher(tiny(), 0.5, "average")
    set_all(teacher.model, 2.0)
    torch.save(teacher.state_dict(), tmp_path / "state.pt")
    fresh = EMATeacher(tiny(), 0.5, "average")
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(p, torch.full_like(p, 2.0)) for p in fresh.parameters())


def test_a_teacher_that_warms_up_is_the_mean_of_all_students_until_its_memory_is_full():
    student = tiny()
    set_all(student, 100.0)  # what it starts from is forgotten by the first update
    teacher = EMATeacher(student, 0.75, "average", warm_up=True)
    said = []
    for value in (1.0, 3.0, 5.0, 7.0, 7.0):
        set_all(student, value)
        teacher.update(student)
        said.append(float(next(teacher.model.parameters()).flatten()[0]))
    # 1, (1+3)/2, (1+3+5)/3, (1+3+5+7)/4, then 3/4 of the last and 1/4 of 7
    assert said == pytest.approx([1.0, 2.0, 3.0, 4.0, 4.75])


def test_warming_up_goes_on_after_a_checkpoint():
    student = tiny()
    teachers = [EMATeacher(student, 0.99, "average", warm_up=True) for _ in range(2)]
    for value in (1.0, 3.0):
        set_all(student, value)
        teachers[0].update(student)
    teachers[1].load_state_dict(teachers[0].state_dict())
    set_all(student, 8.0)
    for teacher in teachers:
        teacher.update(student)
        assert all(torch.equal(p, torch.full_like(p, p.flatten()[0])) for p in teacher.parameters())
        assert float(next(teacher.model.parameters()).flatten()[0]) == pytest.approx(4.0)
    assert "num_updates" not in EMATeacher(student, 0.99, "average").state_dict()
