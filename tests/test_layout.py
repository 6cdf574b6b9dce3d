"""Sizes that keep a file and a function readable; ruff holds the numbers of parameters and statements."""

import ast
from pathlib import Path

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))


def test_no_file_is_longer_than_320_lines() -> None:
    assert len(SOURCES) > 80
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 320} == {}


def test_no_function_is_longer_than_80_lines() -> None:
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{path.name}: {node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert {name: length for name, length in found.items() if length > 80} == {}


def test_names_say_what_is_inside() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils"}
    assert not [path for path in SOURCES if path.stem in drawers]
