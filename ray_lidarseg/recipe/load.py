"""From YAML text and ``a.b=c`` overrides to a recipe, and from what does not fit to one message that names it."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.schema import MethodRecipe, Model, Recipe, Section, Sensor


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe file, or the built-in recipe of that name, and applies ``a.b=c`` overrides.

    Raises:
        RecipeError: No such file or built-in name, not YAML, an unknown key (the nearest is named), a bad value.
    """
    file = Path(path)
    if not file.suffix and not file.is_file():  # a folder of that name, such as the demo's, is no recipe
        file = builtin_recipes().get(str(path), file)
    if not file.is_file():
        raise RecipeError(f"no recipe {path!s}: give a YAML file or one of {', '.join(sorted(builtin_recipes()))}")
    return parse_recipe(file.read_text(), overrides, origin=str(path))


def builtin_recipes() -> dict[str, Path]:
    """The recipes shipped with the package, by name."""
    return {file.stem: file for file in (Path(__file__).parents[1] / "recipes").glob("*.yaml")}


def parse_recipe(text: str, overrides: Iterable[str] = (), origin: str = "recipe") -> Recipe:
    """A recipe from YAML text; see ``load_recipe``."""
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{origin} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{origin}: expected a mapping of sections, got {type(content).__name__}")
    for override in overrides:
        _apply(content, override)
    return validate_recipe(content, origin)


def validate_recipe(content: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from nested mappings; see ``load_recipe``."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise RecipeError("\n".join([f"{origin} does not fit:", *problems])) from error


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


def _apply(content: dict[str, Any], override_text: str) -> None:
    key, equals, value = override_text.partition("=")
    if not equals:
        raise RecipeError(f"override {override_text!r}: expected KEY.KEY=VALUE, for example method.confidence=0.9")
    _set(content, key.strip(), yaml.safe_load(value))


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
            raise RecipeError(f"override {dotted!r}: {key!r} is a value, not a section")
        content = child
    if dotted in _VARIANT_KEYS and content.get("name") != value:
        content.clear()  # another variant of a union has other fields
    content[last] = value


def _explain(problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    if problem["type"] != "extra_forbidden":
        return f"  {'.'.join(place) or 'recipe'}: {problem['msg']} (got {problem['input']!r:.80})"
    nearest = difflib.get_close_matches(".".join(place), sorted(_known_keys()), n=1, cutoff=0.5)
    hint = f"; did you mean {_without_variant(nearest[0])!r}?" if nearest else ""
    return f"  unknown key {_without_variant('.'.join(place))!r}{hint}"


def _without_variant(dotted: str) -> str:
    names = {name for part in _UNIONS for name in variants(part)}
    return ".".join(part for part in dotted.split(".") if part not in names)


def _known_keys() -> set[str]:
    sections: dict[str, list[type[BaseModel]]] = {
        "": [Recipe],
        **{f"{name}.": [type(value)] for name, value in Recipe() if isinstance(value, Section)},
        "data.sensor.": [Sensor],
    }
    sections |= {f"{part}.{name}.": [variant] for part in _UNIONS for name, variant in variants(part).items()}
    return {prefix + key for prefix, models in sections.items() for model in models for key in model.model_fields}
