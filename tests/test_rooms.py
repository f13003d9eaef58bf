"""The house's rules that the layer contracts do not see: no ring of files, no base name used twice."""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import ray_lidarseg

PACKAGE = Path(ray_lidarseg.__file__).parent
_SHARED_NAMES = {"__init__.py", "__main__.py", "build.py"}  # a room's door, and the one place that knows its variants


def _modules(package: Path) -> dict[str, Path]:
    """Dotted name to file; a package is its ``__init__``."""
    named = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


def _imports(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """What each file imports, inside functions too; imports for type checkers alone run never and do not count."""
    return {name: set(_imported(ast.parse(file.read_text()), modules)) - {name} for name, file in modules.items()}


def _imported(tree: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (found for name in names if (found := name if name in modules else node.module) in modules)
        else:
            yield from _imported(node, modules)


def _ring(package: Path) -> list[str]:
    try:
        TopologicalSorter(_imports(_modules(package))).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_ring():
    assert _ring(PACKAGE) == []


def test_a_ring_is_found_although_one_of_its_imports_is_inside_a_function(tmp_path):
    room = tmp_path / "house" / "room"
    room.mkdir(parents=True)
    for folder in (room, room.parent):
        (folder / "__init__.py").write_text("")
    (room / "one.py").write_text("from house.room import two\n")
    (room / "two.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.room.one\n")
    assert _ring(tmp_path / "house") == []
    (room / "two.py").write_text("def late():\n    from house.room.one import something\n")
    assert set(_ring(tmp_path / "house")) == {"house.room.one", "house.room.two"}


def test_a_base_name_occurs_once():
    counts = Counter(file.name for file in PACKAGE.rglob("*.py") if file.name not in _SHARED_NAMES)
    assert [name for name, count in counts.items() if count > 1] == []
