import torch

from ray_lidarseg.methods.step_notes import StepNotes


def test_micro_batches_of_one_step_count_together_and_a_skipped_step_not_at_all():
    notes = StepNotes()
    notes.add(0.1, torch.tensor([100.0]))  # this step is skipped: nobody asks for its total
    notes.add(0.2, torch.tensor([1.0]))
    notes.add(0.2, torch.tensor([2.0]))
    assert notes.total().tolist() == [3.0]
    notes.add(0.2, torch.tensor([5.0]))
    assert notes.total().tolist() == [5.0]


def test_ranks_are_added(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda total: total.add_(torch.tensor([10.0])))
    notes = StepNotes()
    notes.add(0.0, torch.tensor([1.0], requires_grad=True))
    total = notes.total()
    assert total.tolist() == [11.0]
    assert not total.requires_grad
