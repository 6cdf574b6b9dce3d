"""Source files, read without running them: what a module imports and defines, and all the code behind it.

A name that a package re-exports counts as its defining module, so a new file beside it changes nothing. Comments, docstrings
and layout do not count. Installed packages have versions, and are not read.
"""

import ast
import hashlib
import os
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
_LOADED_NS = time.time_ns()

Reference = tuple[str, str | None]
"""A module, and the name that is taken from it; None for the module itself."""


@dataclass(frozen=True)
class _Module:
    """The imports and definitions of a source file, read without running it.

    Attributes:
        digest: Over its syntax tree without docstrings.
        body: For a package's `__init__`: over what is there besides imports; empty if there is nothing.
        imports: What it imports, anywhere in the file.
        names: Name to what it was imported from, at the top level.
        stars: Modules of which it imports all names.
        defined: Names that it defines itself.
    """

    digest: str
    body: str
    imports: tuple[Reference, ...]
    names: dict[str, Reference]
    stars: tuple[str, ...]
    defined: frozenset[str]


def read_package() -> None:
    """Read all files of this package now: later edits do not reach this process's code versions."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        relative = path.relative_to(Path(__file__).parent).with_suffix("")
        _parsed(path, ".".join((PACKAGE, *relative.parts)).removesuffix(".__init__"))


def code_of(module: str) -> dict[str, str]:
    """Module to digest of a module's code and of all code that it imports, by name, as this process has loaded it.

    Returns:
        Empty where that cannot be told: the module's file is not at hand, or a file has changed since this process began.
    """
    found: dict[str, str] = {}
    add_module(module, found)
    places = [place for name in found if (place := _located(name)) and place.path]
    states = [os.stat(place.path) for place in places if place.path]
    new = any(max(state.st_mtime_ns, state.st_ctime_ns) > _LOADED_NS for state in states)
    return {} if new or module not in found else dict(sorted(found.items()))


def add_target(target: str, found: dict[str, str]) -> None:
    """Add what a `_target_` stands for, such as `package.module.Class` or `package.Class.method`."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if _located(".".join(parts[:end])):
            _add_reference((".".join(parts[:end]), parts[end]), found)
            return


def _add_reference(reference: Reference, found: dict[str, str], seen: frozenset[Reference] = frozenset()) -> None:
    """Add the module that defines a name, following re-exports."""
    module, name = reference
    place = _located(module)
    if place is None or reference in seen:
        return
    seen |= {reference}
    if name is None or not place.is_package:
        add_module(module, found)
        return
    init = place.parsed()
    if init and name in init.names:
        _add_body(module, found)
        _add_reference(init.names[name], found, seen)
    elif (init is None or name not in init.defined) and _located(f"{module}.{name}"):
        add_module(f"{module}.{name}", found)
    elif init and name not in init.defined and init.stars:
        for star in init.stars:
            _add_reference((star, name), found, seen)
    elif init and {name, "__getattr__"} & init.defined:
        add_module(module, found)


def add_module(module: str, found: dict[str, str]) -> None:
    """Add the digest of a module, and of all that it imports; nothing where it is installed, or not there."""
    place = _located(module)
    parsed = place.parsed() if place else None
    if parsed is None or found.get(module) == parsed.digest:
        return
    found[module] = parsed.digest
    parent = module.rpartition(".")[0]
    while parent:
        _add_body(parent, found)
        parent = parent.rpartition(".")[0]
    for reference in parsed.imports:
        _add_reference(reference, found)


def _add_body(package: str, found: dict[str, str]) -> None:
    """Add what a package does when it is imported, besides importing."""
    place = _located(package)
    init = place.parsed() if place else None
    if init and init.body:
        found.setdefault(package, init.body)


@dataclass(frozen=True)
class _Place:
    """Where a module of this package or of the user's lies."""

    name: str
    path: Path | None
    is_package: bool

    def parsed(self) -> _Module | None:
        """Its file, parsed; None for a package without one."""
        return None if self.path is None else _parsed(self.path, self.name)


@cache
def file_of(module: str) -> tuple[Path, bool] | None:
    """Find the file of a module without importing it.

    Args:
        module: Its dotted name.

    Returns:
        The file and whether it is a package's; of a package without a file, its folder; None where nothing is found.
    """
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    path, is_package = Path(spec.origin or ""), spec.submodule_search_locations is not None
    # Below the top, the import system would want the parents to be imported first.
    for part in rest:
        found = [place for folder in folders if (place := _beside(Path(folder), part))]
        if not found:
            return None
        path, is_package = found[0]
        folders = [str(path.parent if path.suffix else path)] if is_package else []
    return path, is_package


@cache
def _located(module: str) -> _Place | None:
    """Find a module without importing it; None if it is installed, built in, or not there."""
    found = file_of(module)
    if found is None:
        return None
    path, is_package = found
    if is_package and not path.suffix:  # a folder without __init__.py
        return _Place(module, None, True)
    if path.suffix != ".py" or not path.is_file():
        return None
    path = path.resolve()
    if module.partition(".")[0] != PACKAGE and _is_installed(path):
        return None
    return _Place(module, path, is_package)


def _beside(folder: Path, name: str) -> tuple[Path, bool] | None:
    """The file of a module or package in a folder, and whether it is a package; of a folder without a file, the folder."""
    for path, is_package in ((folder / name / "__init__.py", True), (folder / f"{name}.py", False)):
        if path.is_file():
            return path, is_package
    return (folder / name, True) if (folder / name).is_dir() else None


def _is_installed(path: Path) -> bool:
    """Whether a file belongs to the standard library or to an installed package, here or where this builds on."""
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or any(map(path.is_relative_to, _standard_library()))


@cache
def _standard_library() -> list[Path]:
    return [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]


@cache
def _parsed(path: Path, name: str) -> _Module:
    """Read a file, once a process: what is loaded is what was there when it started."""
    tree = ast.parse(path.read_bytes(), str(path))
    is_package = path.name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    names: dict[str, Reference] = {}
    stars: list[str] = []
    defined: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            stars += [base for alias in node.names if alias.name == "*"]
            names |= {alias.asname or alias.name: (base, alias.name) for alias in node.names if alias.name != "*"}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or whole] = (whole, None)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            assigned = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in assigned if isinstance(target, ast.Name)}
    references = tuple(dict.fromkeys(_references(tree, package)))
    _strip_docstrings(tree)
    digest = _digest(tree)
    rest = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_all(node)]
    body = _digest(ast.Module(rest, [])) if is_package and rest else ""
    return _Module(digest, body, references, names, tuple(stars), frozenset(defined))


def _references(node: ast.AST, package: str) -> Iterator[Reference]:
    """All imports below a node, but for those that only a type checker follows."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, None) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = absolute(child, package)
            yield from ((base, None if alias.name == "*" else alias.name) for alias in child.names)
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield from _references(ast.Module([other], []), package)
        else:
            yield from _references(child, package)


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that a `from ... import` names, whatever number of dots it begins with."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", "")) == "TYPE_CHECKING"


def _is_all(node: ast.stmt) -> bool:
    """Whether a statement only says which names a module exports."""
    targets: Sequence[ast.expr] = node.targets if isinstance(node, ast.Assign) else ()
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:]


def _digest(tree: ast.AST) -> str:
    # Since Python 3.13, empty lists are left out unless asked for: the digest must not depend on that.
    text = ast.dump(tree, **({"show_empty": True} if sys.version_info >= (3, 13) else {}))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
