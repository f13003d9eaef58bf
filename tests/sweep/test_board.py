import pytest

from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sweep.board import Board
from ray_lidarseg.sweep.trials import Trial


def test_values_are_shown_as_they_are(capsys: pytest.CaptureFixture) -> None:
    board = Board("student/point", 1)
    with board.shown():
        board.saw(Trial({"data.prepared": "s3://b/[rain]/:car:/[/b]"}, 0, Recipe()))
    assert "s3://b/[rain]/:car:/[/b]" in capsys.readouterr().out
