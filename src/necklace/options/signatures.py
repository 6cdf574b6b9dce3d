"""The arguments of a config's classes and functions, read from source: importing torch and Lightning to ask takes seconds.

Only source of this package, torch, Lightning and timm is read; what does not tell there, and all else, is imported and asked.
"""

import ast
import builtins
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Union, get_type_hints

from hydra.utils import get_object

from necklace.parts import ALIASES
from necklace.source_code import PACKAGE, Reference, absolute, file_of

READ = (PACKAGE, "torch", "pytorch_lightning", "lightning_fabric", "timm")
# Modules whose import takes no time: their names are what they are.
LIGHT = ("typing", "collections.abc", "pathlib", "datetime", "os", "abc", "functools", "dataclasses")
# Classes that no value of a config is an instance of, in files that are long to read.
CLASSES = {("torch", "Tensor"), ("torch", "Generator"), ("torch.nn", "Module")}
EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """An argument of a class or function.

    Attributes:
        name: Its name.
        kind: As in `inspect.Parameter`.
        default: Its default, or `EMPTY`.
        hint: Gives its annotation as types, or `EMPTY`. Classes may be stood for by others of their names.
    """

    name: str
    kind: Any
    default: Any
    hint: Callable[[], Any]


class _NotTold(Exception):
    """The source does not tell."""


def arguments(target: str) -> tuple[Argument, ...] | None:
    """The arguments that a call of a target takes, in order; None where nothing tells, as of a class in C.

    Args:
        target: Its dotted path, which may be one that has moved.

    Raises:
        Exception: Whatever importing it raises, where it is imported.
    """
    told = told_arguments(target)
    return imported_arguments(target) if told is None else told


@cache
def told_arguments(target: str) -> tuple[Argument, ...] | None:
    """The same from source alone; None where it does not tell."""
    path = ALIASES.get(target, target)
    module, _, name = path.rpartition(".")
    try:
        place, node = _defined(module, name)
        found = _of_class(place, node) if isinstance(node, ast.ClassDef) else _of_function(place, node)
    except _NotTold:
        return None
    return tuple(Argument(each.name, each.kind, each.default, partial(_hint, target, each)) for each in found)


@cache
def imported_arguments(target: str) -> tuple[Argument, ...] | None:
    """The same from the imported class or function."""
    function = located(target)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a class in C
        return None
    owner = function.__init__ if inspect.isclass(function) else function
    try:
        hints = get_type_hints(owner)
    except Exception:  # a name that is imported for type checkers alone
        hints = {}
    return tuple(
        Argument(each.name, each.kind, each.default, partial(hints.get, each.name, each.annotation)) for each in parameters
    )


def located(target: str) -> Callable[..., Any]:
    """The class or function of a `_target_`, also where it has moved."""
    return get_object(ALIASES.get(target, target))


def defined(target: str) -> str:
    """A class's own dotted path, whatever path a config has for it."""
    module, _, name = ALIASES.get(target, target).rpartition(".")
    try:
        place, node = _defined(module, name)
        return f"{place}.{getattr(node, 'name', name)}"
    except _NotTold:
        function = located(target)
        return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


@dataclass(frozen=True)
class _Told:
    """An argument as the source has it: with its annotation as syntax, and the module that it stands in."""

    name: str
    kind: Any
    default: Any
    annotation: ast.expr | None
    module: str


def _hint(target: str, told: _Told) -> Any:
    if told.annotation is None:
        return EMPTY
    try:
        return _types(told.annotation, told.module)
    except _NotTold:
        found = imported_arguments(target) or ()
        return next(each.hint() for each in found if each.name == told.name)


@cache
def _names(module: str) -> dict[str, ast.stmt | Reference]:
    """Name to its definition, or to what it was imported from, at the top level of a module; none where it is not read."""
    if module.partition(".")[0] not in READ or (place := file_of(module)) is None or place[0].suffix != ".py":
        return {}
    path, is_package = place
    found: dict[str, ast.stmt | Reference] = {}
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.ImportFrom):
            base = absolute(node, module if is_package else module.rpartition(".")[0])
            found |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def _defined(module: str, name: str) -> tuple[str, ast.stmt]:
    """The module that defines a name, and its definition there; re-exports are followed."""
    for _ in range(20):
        entry = _names(module).get(name)
        if isinstance(entry, ast.stmt):
            return module, entry
        if entry is None or entry[1] is None:
            break
        module, name = entry[0], entry[1]
    raise _NotTold


def _of_function(module: str, node: ast.stmt) -> list[_Told]:
    if not isinstance(node, ast.FunctionDef) or not all(_keeps_arguments(module, each) for each in node.decorator_list):
        raise _NotTold
    parameter, given = inspect.Parameter, node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    found = [
        (each, parameter.POSITIONAL_ONLY if each in given.posonlyargs else parameter.POSITIONAL_OR_KEYWORD, default)
        for each, default in zip(plain, defaults, strict=True)
    ]
    found += [(given.vararg, parameter.VAR_POSITIONAL, None)] if given.vararg else []
    found += [
        (each, parameter.KEYWORD_ONLY, default) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    found += [(given.kwarg, parameter.VAR_KEYWORD, None)] if given.kwarg else []
    return [_Told(each.arg, kind, _default(default, module), each.annotation, module) for each, kind, default in found]


def _keeps_arguments(module: str, decorator: ast.expr) -> bool:
    """Whether a decorator wraps the function as `functools.wraps` does, so that it takes the same arguments."""
    if not isinstance(decorator, ast.Name):
        return False
    _, node = _defined(module, decorator.id)
    if not isinstance(node, ast.FunctionDef) or len(node.args.args) != 1:
        return False
    wrapped = [f"wraps({node.args.args[0].arg})", f"functools.wraps({node.args.args[0].arg})"]
    inner = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    return len(inner) == 1 and [ast.unparse(each) in wrapped for each in inner[0].decorator_list] == [True]


def _of_class(module: str, node: ast.ClassDef) -> list[_Told]:
    """The arguments of a class's constructor, its own or that of the one class that it builds on."""
    own = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    if node.keywords or "__new__" in own:
        raise _NotTold
    if node.decorator_list:
        return _of_dataclass(module, node)
    if "__init__" in own:
        return _of_function(module, own["__init__"])[1:]
    if not node.bases:
        return []
    if len(node.bases) > 1 or not isinstance(node.bases[0], ast.Name):
        raise _NotTold
    place, base = _defined(module, node.bases[0].id)
    if not isinstance(base, ast.ClassDef):
        raise _NotTold
    return _of_class(place, base)


def _of_dataclass(module: str, node: ast.ClassDef) -> list[_Told]:
    (decorator,) = node.decorator_list if len(node.decorator_list) == 1 else (None,)
    options = decorator.keywords if isinstance(decorator, ast.Call) else []
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    plain = {"frozen", "eq", "order", "repr", "slots"}
    named = isinstance(name, ast.Name) and _names(module).get(name.id) == ("dataclasses", "dataclass")
    if not named or node.bases or not {each.arg for each in options} <= plain:
        raise _NotTold
    found = []
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            if "ClassVar" in ast.unparse(each.annotation):
                continue
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            found.append(_Told(each.target.id, kind, _default(each.value, module), each.annotation, module))
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            raise _NotTold
    return found


def _default(node: ast.expr | None, module: str) -> Any:
    """The value of a default, which has to be a constant, or the name of one."""
    if node is None:
        return EMPTY
    if isinstance(node, ast.Name):
        place, definition = _defined(module, node.id)
        if isinstance(definition, ast.Assign | ast.AnnAssign) and definition.value:
            return _default(definition.value, place)
        raise _NotTold
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _NotTold from None


def _types(node: ast.expr, module: str, literal: bool = False) -> Any:
    """An annotation as types; within `Literal`, text is text and no type."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and not literal:
            return _types(ast.parse(node.value, mode="eval").body, module)
        return node.value
    if isinstance(node, ast.Name):
        return _named(module, node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        entry = _names(module).get(node.value.id)
        if not isinstance(entry, tuple):
            raise _NotTold
        return _imported(entry[0] if entry[1] is None else f"{entry[0]}.{entry[1]}", node.attr)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return Union[_types(node.left, module), _types(node.right, module)]  # noqa: UP007, of values
    if isinstance(node, ast.List | ast.Tuple):
        return (list if isinstance(node, ast.List) else tuple)(_types(each, module, literal) for each in node.elts)
    if isinstance(node, ast.Subscript):
        of = _types(node.value, module)
        if of is Annotated:
            return _types(node.slice.elts[0], module) if isinstance(node.slice, ast.Tuple) else None
        return of[_types(node.slice, module, of is Literal)]
    raise _NotTold


def _named(module: str, name: str) -> Any:
    """What a name stands for in a module's annotations."""
    entry = _names(module).get(name)
    if entry is None:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise _NotTold
    if isinstance(entry, tuple):
        if entry[1] is None:
            raise _NotTold
        return _imported(entry[0], entry[1])
    if isinstance(entry, ast.ClassDef):
        return _class(module, name)
    if isinstance(entry, ast.Assign | ast.AnnAssign) and entry.value and not isinstance(entry.value, ast.Call):
        return _types(entry.value, module)
    raise _NotTold


def _imported(module: str, name: str) -> Any:
    """What a name of another module stands for."""
    if module in LIGHT:
        return getattr(import_module(module), name)
    return _class(module, name) if (module, name) in CLASSES else _named(module, name)


class _Class:
    """Stands for a class that is not imported."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __class_getitem__(cls, _: Any) -> type:
        return cls


@cache
def _class(module: str, name: str) -> type:
    node = _names(module).get(name) if (module, name) not in CLASSES else None
    body = node.body if isinstance(node, ast.ClassDef) else []
    fields = {each.target.id: Any for each in body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)}
    return type(name, (_Class,), {"__module__": module, "__annotations__": fields})
