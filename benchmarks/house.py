"""The house in numbers: how large the wheel is, how it is divided, and what in it stands twice.

    python benchmarks/house.py          the table, beside its bars
    python benchmarks/house.py --list   and what was counted: packages, class names, cycles

The code is read, never imported, and nothing is written. Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MAX_LINES, MAX_MODULES, MAX_LOOSE = 64_000, 390, 10
MAX_ANY, MAX_SKIPS, MIN_TESTS = 8.0, 40, 0.45
SEE_NOTE = ("ask loops", "folder rules", "cost estimators", "QuPath readers")
_SKIP = re.compile(r"# fmt: skip\b")
_ENTRY = ("__init__.py", "__main__.py")


@dataclass(frozen=True)
class Row:
    """One line of the table; `value` None where it cannot be counted."""

    name: str
    value: float | None
    bar: float
    at_least: bool = False
    found: tuple[str, ...] = field(default=(), repr=False)

    @property
    def missed(self) -> bool:
        """Whether the value was counted and lies beyond its bar."""
        if self.value is None:
            return False
        return self.value < self.bar if self.at_least else self.value > self.bar

    def text(self) -> str:
        """As Markdown."""
        value = "see note" if self.value is None else f"{self.value:,.2f}".removesuffix(".00")
        sign = ">=" if self.at_least else "<="
        return f"| {self.name} | {value} | {sign} {self.bar:,g} | {'MISSED' if self.missed else ''} |"


@dataclass(frozen=True)
class Module:
    """A Python file: its dotted name, text and syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__.py` of a package."""
        return self.path.name == "__init__.py"

    @property
    def lines(self) -> int:
        """Lines of the file, empty ones and comments included."""
        return len(self.text.splitlines())


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="also print what was counted")
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to read (this one)")
    options = parser.parse_args()
    rows = measure(options.root)
    print("| | measured | bar | |\n|---|---|---|---|")
    for row in rows:
        print(row.text())
    if options.list:
        for row in rows:
            if row.found:
                print(f"\n{row.name}:", *row.found, sep="\n  ")
    return int(any(row.missed for row in rows))


def measure(root: Path) -> list[Row]:
    """Every row of the table, for the checkout at `root`."""
    modules = list(wheel_modules(root))
    lines = sum(module.lines for module in modules)
    loose = {name: number for name, number in loose_files(modules).items() if number > MAX_LOOSE}
    most = max(loose_files(modules).values(), default=0)
    names, cycles = repeated_classes(modules), import_cycles(modules)
    tests = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (root / "tests").rglob("*.py"))
    skips = sum(len(_SKIP.findall(module.text)) for module in modules)
    return [
        Row("Python lines in the wheel", lines, MAX_LINES),
        Row("modules in the wheel", len(modules), MAX_MODULES),
        Row("loose files in a package, at most", most, MAX_LOOSE, found=_counted(loose)),
        *(Row(name, None, 1) for name in SEE_NOTE),
        Row(
            "class names that stand twice",
            len(names),
            0,
            found=tuple(f"{name}: {', '.join(places)}" for name, places in sorted(names.items())),
        ),
        Row(
            "files in import cycles, deferred imports included",
            sum(map(len, cycles)),
            0,
            found=tuple(" - ".join(cycle) for cycle in cycles),
        ),
        Row("`Any` per 1,000 lines", 1000 * sum(uses_of_any(m.tree) for m in modules) / max(lines, 1), MAX_ANY),
        Row("`# fmt: skip` in the wheel", skips, MAX_SKIPS),
        Row("lines of tests to lines in the wheel", tests / max(lines, 1), MIN_TESTS, at_least=True),
    ]


def wheel_modules(root: Path) -> Iterator[Module]:
    """The Python files of the packages that pyproject puts into the wheel."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for path in sorted((root / package).rglob("*.py")):
            parts = list(path.relative_to(root).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            yield Module(name, path, text, ast.parse(text))


def loose_files(modules: Iterable[Module]) -> Counter[str]:
    """Modules that lie directly in a package, by package; its `__init__` and `__main__` do not count."""
    return Counter(m.name.rpartition(".")[0] for m in modules if m.path.name not in _ENTRY)


def repeated_classes(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Names of top-level classes that more than one module defines, with these modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for name in sorted({node.name for node in module.tree.body if isinstance(node, ast.ClassDef)}):
            places[name].append(module.name)
    return {name: where for name, where in places.items() if len(where) > 1}


def uses_of_any(tree: ast.AST) -> int:
    """How often `Any` stands in the code; its import does not count."""
    names = sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
    return names + sum(isinstance(node, ast.Attribute) and node.attr == "Any" for node in ast.walk(tree))


def import_cycles(modules: Iterable[Module]) -> list[tuple[str, ...]]:
    """Groups of modules that import each other, directly or through others of the group.

    Imports inside functions count; those that only a type checker runs do not.
    """
    known = {module.name: module for module in modules}
    graph = {name: sorted(_imported(module, known)) for name, module in known.items()}
    return sorted(tuple(sorted(group)) for group in _components(graph) if len(group) > 1)


def _imported(module: Module, known: dict[str, Module]) -> set[str]:
    """Modules of the wheel that a module names in its imports."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    found: set[str] = set()
    for node in _run_imports(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parents = package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            found.add(inner if inner in known else base)
    return (found & set(known)) - {module.name}


def _run_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run at some time, however deep they stand."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = iter(node.orelse)
    for child in children:
        yield from _run_imports(child)


def _components(graph: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            place = stack.index(name)
            found.append(stack[place:])
            del stack[place:]

    for name in graph:
        if name not in order:
            visit(name)
    return found


def _counted(numbers: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{name}: {number}" for name, number in sorted(numbers.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    sys.exit(main())
