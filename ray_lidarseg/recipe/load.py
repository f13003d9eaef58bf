"""From YAML text and ``a.b=c`` overrides to a recipe, and from what does not fit to one message that names it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.bad_input import assignments, carries_credentials, explain, read_yaml, shown
from ray_lidarseg.recipe.schema import MethodRecipe, Model, Recipe, Section


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe file, or the built-in recipe of that name, and applies ``a.b=c`` overrides.

    Raises:
        RecipeError: No such file or built-in name, not YAML, an unknown key (the nearest is named), a bad value.
    """
    file = Path(path)
    try:
        if not file.suffix and not file.is_file():  # a folder of that name, such as the demo's, is no recipe
            file = builtin_recipes().get(str(path), file)
        text = file.read_bytes() if file.is_file() else None
    except OSError as error:  # a name too long, no permission
        raise RecipeError(f"recipe {shown(str(path))} cannot be read: {error.strerror}") from error
    if text is None:
        known = ", ".join(sorted(builtin_recipes()))
        raise RecipeError(f"no recipe {shown(str(path))}: give a YAML file or one of {known}")
    return parse_recipe(text, overrides, origin=str(path))


def builtin_recipes() -> dict[str, Path]:
    """The recipes shipped with the package, by name."""
    return {file.stem: file for file in (Path(__file__).parents[1] / "recipes").glob("*.yaml")}


def parse_recipe(text: str | bytes, overrides: Iterable[str] = (), origin: str = "recipe") -> Recipe:
    """A recipe from YAML text; see ``load_recipe``."""
    content = read_yaml(text, origin, RecipeError) or {}
    if not isinstance(content, dict):
        raise RecipeError(f"{origin}: expected a mapping of sections, got {type(content).__name__}")
    for key, value in assignments(overrides, "method.confidence=0.9", RecipeError).items():
        _set(content, key, read_yaml(value, f"--set {key}", RecipeError))
    return validate_recipe(content, origin)


def validate_recipe(content: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from nested mappings; see ``load_recipe``."""
    if carries_credentials(content):
        raise RecipeError(
            f"{origin} holds credentials inside a URI, and recipes are stored and printed: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment instead"
        )
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError("\n  ".join([f"{origin} does not fit:", *explain(error, Recipe)])) from error


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys set to values: the door Tune's parameters come through, too."""
    content = recipe.model_dump(mode="json")
    for key, value in changes.items():
        _set(content, key, value)
    return validate_recipe(content, "overrides")


def with_method(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another method, for a fair comparison: the keys both methods have keep their values.

    Raises:
        RecipeError: No such method.
    """
    sections = variants("method")
    if name not in sections:
        raise RecipeError(f"no method {name!r}: expected one of {', '.join(sections)}")
    kept = {key: value for key, value in recipe.method if key in sections[name].model_fields}
    return override(recipe, {"method": {**kept, "name": name}})


_UNIONS = {"model": Model, "method": MethodRecipe}
_VARIANT_KEYS = tuple(f"{part}.name" for part in _UNIONS)


def variants(part: str) -> dict[str, type[Section]]:
    """The sections a part of the recipe chooses from, by name, in the order of the union."""
    union = get_args(_UNIONS[part])[0]
    return {section.model_fields["name"].default: section for section in get_args(union)}


def _set(content: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        child = content.setdefault(key, {})
        if not isinstance(child, dict):
            raise RecipeError(f"override {shown(dotted)}: {shown(key)} is a value, not a section")
        content = child
    if dotted in _VARIANT_KEYS and content.get("name") != value:
        content.clear()  # another variant of a union has other fields
    content[last] = value
