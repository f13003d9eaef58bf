import pytest

from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.recipe.bad_input import assignments, nearest, shown
from ray_lidarseg.recipe.load import parse_recipe


def test_values_are_shown_by_their_beginning() -> None:
    laughs: list[object] = ["x"] * 9
    for _ in range(40):
        laughs = [laughs] * 9
    assert len(shown(laughs)) <= 80
    assert shown("s3://AKIA:secret@logs/a") == "'s3://…@logs/a'"
    assert shown(None) == "null"
    assert shown(16**5000) == "a number of 20001 bits"
    assert shown(-3.5) == "-3.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {steps: 0}", r"train.steps: expected at least 1 \(got 0\)$"),
        ("train: {steps: many}", r"train.steps: expected a whole number \(got 'many'\)$"),
        ("train: 2026-01-01", r"train: expected a mapping \(got datetime.date\(2026, 1, 1\)\)$"),
        ("split: {ratio: .nan}", r"split.ratio: expected .* \(got nan\)$"),
        ("model: {name: fidnett}", r"model: expected 'name' to be one of .*'fidnet'"),
        ("model: {name: fidnet, depth: 18}", "unknown key 'model.depth'"),
        ("confidence: 0.9", "unknown key 'confidence'; did you mean 'method.confidence'[?]$"),
        ("{1: 2}", "expected keys that are text"),
        ("{zzzzzzzz: 1}", "unknown key 'zzzzzzzz'; known are augment, data"),
        ("data: {prepared: 's3://AKIA:se/cret@logs/a'}", "credentials inside a URI, and recipes are stored"),
        ("data: {" + ", ".join(f"k{n}: 1" for n in range(99)) + "}", "… and 87 more$"),
    ],
)
def test_a_recipe_is_explained_in_plain_words(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(text)
    assert "cret" not in str(caught.value)
    assert "Input should" not in str(caught.value)


def test_one_grammar_of_settings() -> None:
    assert assignments(["a.b = c=d", "e=", "e=2"], "a=1", DataError) == {"a.b": "c=d", "e": "2"}
    for text in ("a", "=1", "a.=1", ".a=1", "a..b=1"):
        with pytest.raises(DataError, match="expected KEY=VALUE, for example beams=64"):
            assignments([text], "beams=64", DataError)
    with pytest.raises(RecipeError, match=r"expected KEY\.KEY=VALUE, for example masks\.folder=x"):
        assignments(["folder=x"], "masks.folder=x", RecipeError, num_parts=2)


def test_nearest_does_not_compare_endless_keys() -> None:
    assert nearest("prepard", {"prepared"}) == "; did you mean 'prepared'?"
    assert nearest("p" * 10_000_000, {"prepared"}) == ""
