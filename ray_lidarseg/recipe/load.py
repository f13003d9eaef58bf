"""From YAML text and ``a.b=c`` overrides to a recipe, and from what does not fit to one message that names it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.bad_input import assignments, explain, shown
from ray_lidarseg.recipe.former_names import arguments_now
from ray_lidarseg.recipe.schema import MethodRecipe, Model, Recipe, Section
from ray_lidarseg.recipe.text_files import carries_credentials, read_yaml


def load_recipe(path: str | Path, overrides: Iterable[str] = (), method: str = "", labels: str = "") -> Recipe:
    """Reads a recipe file, or the built-in recipe of that name, and applies flags and ``a.b=c`` overrides.

    Args:
        path: File or name.
        overrides: Applied last; ``method.…`` is a key of the method that ``method`` names.
        method: Another method, see ``with_method``; one that reads image evidence gets ``data.evidence=auto``. Empty:
            the recipe's.
        labels: Labelled share of the training frames: ``10%``, ``1/16``, ``0.1``. Empty: the recipe's.

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
        if now := arguments_now(str(path)):
            raise RecipeError(f"recipe {path!s} is now said with flags: {now}")
        known = ", ".join(sorted(builtin_recipes()))
        raise RecipeError(f"no recipe {shown(str(path))}: give a YAML file or one of {known}")
    return parse_recipe(text, overrides, str(path), method, labels)


def builtin_recipes() -> dict[str, Path]:
    """The recipes shipped with the package, by name."""
    return {file.stem: file for file in (Path(__file__).parents[1] / "recipes").glob("*.yaml")}


def parse_recipe(
    text: str | bytes, overrides: Iterable[str] = (), origin: str = "recipe", method: str = "", labels: str = ""
) -> Recipe:
    """A recipe from YAML text; see ``load_recipe``."""
    content = read_yaml(text, origin, RecipeError) or {}
    if not isinstance(content, dict):
        raise RecipeError(f"{origin}: expected a mapping of sections, got {type(content).__name__}")
    values = {
        key: read_yaml(value, f"--set {key}", RecipeError)
        for key, value in assignments(overrides, "method.confidence=0.9", RecipeError).items()
    }
    of_method = {key: values.pop(key) for key in list(values) if method and key.startswith("method.")}
    if labels:
        _set(content, "split.ratio", _stated_share(labels))
    for key, value in values.items():
        _set(content, key, value)
    recipe = validate_recipe(content, origin)
    if method:
        recipe = _with_evidence(override(with_method(recipe, method), of_method))
    if labels and recipe.split.protocol == "list":
        raise RecipeError(f"{origin}: split.protocol list names its frames, so --labels {labels} has no effect")
    return _named(recipe, method, labels)


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

    Keys that mean something else there take the other method's default (see ``_OF_ITS_OWN``).

    Raises:
        RecipeError: No such method.
    """
    sections = variants("method")
    if name not in sections:
        raise RecipeError(f"no method {name!r}: expected one of {', '.join(sections)}")
    names = {recipe.method.name, name}
    other = set().union(*(_OF_ITS_OWN.get(each, ()) for each in names)) if len(names) == 2 else set()
    kept = {key: value for key, value in recipe.method if key in sections[name].model_fields and key not in other}
    return override(recipe, {"method": {**kept, "name": name}})


def settled(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with a combination of a sweep: ``method`` as the flag of that name, all else as ``a.b=c``.

    Raises:
        RecipeError: An unknown key (the nearest is named), a bad value, or values that do not go together.
    """
    rest = dict(settings)
    if (method := rest.pop("method", None)) is not None:
        recipe = _with_evidence(with_method(recipe, str(method)))
    return override(recipe, dict(sorted(rest.items(), key=lambda item: item[0] not in _VARIANT_KEYS)))


def _stated_share(labels: str) -> str:
    """The flag's text, unless it could mean a share as well as a percentage."""
    if labels.strip().isdigit():
        raise RecipeError(f"--labels {labels}: write {labels}% for {labels} of a hundred frames, or 100% for all")
    return labels


def _with_evidence(recipe: Recipe) -> Recipe:
    if not recipe.method.reads_evidence or recipe.data.evidence:
        return recipe
    return override(recipe, {"data.evidence": "auto"})


def _named(recipe: Recipe, method: str, labels: str) -> Recipe:
    """The recipe under a name that also says what the flags said: it becomes that of the run folder."""
    said = [*([method] if method else []), *([f"{100 * recipe.split.ratio:g}pct"] if labels else [])]
    return override(recipe, {"name": "-".join([recipe.name, *said])}) if said else recipe


_OF_ITS_OWN = {"cutmix_seg": ("confidence",), "distill": ("cross_weight",)}
"""Keys of a method that other methods have under the same name for something else.

CutMix-Seg scales a term by the share of points above ``confidence``, where others take such points for labels; Distill
weighs relations between networks by ``cross_weight``, CPS labels.
"""

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
