"""Steps of a small FIDNet with its dense parts compiled; prints what ``test_dense_parts`` asserts, as JSON.

A process of its own, as shape checks of the tests wrap functions in what torch's compiler cannot read. What is compiled
runs eagerly (``aot_eager``): graphs and guards are those of inductor, and no C++ is built.
"""

import json

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ray_lidarseg.models import dense_parts
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(32, 0.2, -0.5, 1.0, 50.0, 1.0)
CPU = torch.device("cpu")


def model() -> FIDNet:
    """Always the same one."""
    torch.manual_seed(0)
    return FIDNet(SENSOR, 4, 8, 32, 0.0625, (1, 1, 1, 1))


def batch(num_scans: int, num_points: int, seed: int) -> PointBatch:
    """Points all around the sensor."""
    generator = torch.Generator().manual_seed(seed)
    scans = [(torch.rand(num_points, 4, generator=generator) - 0.5) * 60 for _ in range(num_scans)]
    return PointBatch.pack([PointBatch.of_scan(points) for points in scans])


def difference() -> float:
    """The largest, relative to each tensor, of scores and gradients; not training, as batch norms amplify rounding."""
    plain, compiled = model().eval(), model().eval()
    dense_parts.compile_dense(compiled, CPU)
    results = []
    for each in (plain, compiled):
        logits = each(batch(2, 300, 0)).point_logits
        results.append((logits, *torch.autograd.grad(logits.square().mean(), list(each.parameters()))))
    return max(float((b - a).norm() / a.norm().clamp_min(1e-12)) for a, b in zip(*results, strict=True))


def counts(counter: CompileCounterWithBackend) -> list[int]:
    """Graphs compiled by the end of each round: student and teacher, training and evaluating, one and two scans."""
    student = model().train()
    teacher = EMATeacher(student, 0.9, "average")
    for each in (student, teacher):
        dense_parts.compile_dense(each, CPU)
    found = []
    for round_ in range(5):
        for num_scans in (1, 2):
            seen = batch(num_scans, 200 + 20 * round_, round_)
            student.train()(seen).point_logits.sum().backward()
            teacher(seen)
            with torch.no_grad():
                student.eval()(seen)
        found.append(counter.frame_count)
    return found


def main() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = {}
    dense_parts._compiled = lambda method: compiled.setdefault(method, torch.compile(method, backend=counter))
    apart, graphs = difference(), counter.frame_count
    torch.compiler.reset()
    counter.clear()
    print(json.dumps({"difference": apart, "graphs": graphs, "counts": counts(counter)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
