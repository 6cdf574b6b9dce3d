"""Records and studies of earlier layouts, brought up to the current one when they are read."""

from pathlib import Path
from typing import Any

SCHEMA = 5  # of a run's record
LAYOUT = 4  # of a study's records/study.json


class NewerRecord(ValueError):
    """A record that newer code than this has written."""


def migrated_record(content: Any, path: Path) -> Any:
    """A record's content in the current schema.

    Schema 3 called a run a cell and its metrics figures, and had one digest over all code: such a record cannot say which
    modules trained it, so its code is `{"schema 3": digest}`, and it counts as stale until the run is trained again. Schema 4
    had no evidence.

    Raises:
        ValueError: It is no record, or its schema is newer than this code or older than 3.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema == SCHEMA:
        return content
    if schema == 3:
        renamed = _renamed(content, {"cell": "name", "cell_hash": "hash", "figures": "metrics"})
        content = renamed | {"schema": 4, "code": {"schema 3": content.get("code")}}
    if schema in (3, 4):
        return content | {"schema": SCHEMA, "evidence": None}
    newer = isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA
    kind = NewerRecord if newer else ValueError
    raise kind(f"{path}: schema: {schema!r}: not a record of a schema that is known here (3 to {SCHEMA})")


def migrated_study(content: Any, path: Path) -> Any:
    """The content of a study's `study.json` in the current layout; layout 3 called runs cells.

    Raises:
        ValueError: It is no study, or its layout is newer than this code or older than 3.
    """
    layout = content.get("layout") if isinstance(content, dict) else None
    if layout == LAYOUT:
        return content
    if layout == 3 and isinstance(content.get("cells"), list):
        runs = [_renamed(item, {"cell": "name"}) if isinstance(item, dict) else item for item in content["cells"]]
        return {name: value for name, value in content.items() if name != "cells"} | {"layout": LAYOUT, "runs": runs}
    raise ValueError(f"{path}: layout: {layout!r}: not the study.json of a layout that is known here (3 to {LAYOUT})")


def migrated_cost(content: Any) -> Any:
    """The measured costs of a row, as a mapping; before layout 4 it named the measured run `cell_hash`."""
    if isinstance(content, dict) and "cell_hash" in content:
        content = _renamed(content, {"cell_hash": "hash"})
    return content


def _renamed(content: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in content.items()}
