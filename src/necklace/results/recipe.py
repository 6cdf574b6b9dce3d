"""How a study's runs were trained, in words: data, images, model, optimizer, epochs, code; what differs, row by row."""

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from necklace.code_version import day_of
from necklace.record import Record
from necklace.results.results import Results

# What an augmentation's option is where it does nothing.
IDLE = {"crop_scale": 1}
MOST = 4  # so many different values are listed with their rows


def recipe(results: Results) -> list[tuple[str, str]]:
    """The recipe of a study's finished runs.

    Args:
        results: The results of a study.

    Returns:
        What, and how: such as `("epochs", "12")`, or `("epochs", "12 (none, spp); 24 (focal)")`; without what no record says.
    """
    lines = [(name, told(results, tell)) for name, tell in _TELL.items()]
    return [(name, text) for name, text in lines if text]


def commits(results: Results) -> list[tuple[str, str | None, bool]]:
    """The commits of the code that trained the runs: the first digits, its day, and whether there were uncommitted changes.

    The day is None where neither the record nor this checkout's history knows it.
    """
    found: dict[tuple[str, str | None, bool], None] = {}
    for git in (record.git for record in records(results)):
        sha = str((git or {}).get("sha", ""))
        if git and re.fullmatch("[0-9a-f]{7,64}", sha):
            found[sha[:10], git.get("date") or day_of(sha), bool(git.get("dirty"))] = None
    return list(found)


def records(results: Results) -> list[Record]:
    """The records of all finished runs of the table."""
    return [run.record for row in results.rows for run in row.runs if run.record]


def told(results: Results, tell: Callable[[Record], str]) -> str:
    """What `tell` says of the runs: once where it is the same of all, else with the rows of which it is said."""
    rows: dict[str, list[str]] = {}
    for row in results.rows:
        for text in dict.fromkeys(tell(run.record) for run in row.runs if run.record):
            rows.setdefault(text, []).append(row.name)
    rows.pop("", None)
    if len(rows) < 2:
        return next(iter(rows), "")
    if len(rows) > MOST:
        return f"{'; '.join(list(rows)[:MOST])} and {len(rows) - MOST} more, by row"
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in rows.items())


def _data(record: Record) -> str:
    root = at(record.config, "data", "root") or at(record.config, "data", "source", "root")
    classes = len(record.data.get("classes", []))
    place = f" {PurePath(root).name}" if isinstance(root, str) else ""  # its folder's place is nobody else's business
    name = record.choices.get("data", "")
    return f"{name}{place}, {classes} classes" if name else ""


def _images(record: Record) -> str:
    images = record.data.get("images", {})
    return ", ".join(f"{images[split]:,} {split}" for split in ("train", "val", "test") if split in images)


def _sizes(record: Record) -> str:
    size, name = at(record.config, "data", "size"), record.choices.get("data/sizes", "")
    ends = at(record.config, "data", "eval_sizes")
    tested = f"; tested at {', '.join(map(str, ends))} as well" if isinstance(ends, list) and ends else ""
    sizes = at(record.config, "data", "sizes") or {}
    side = f", {size} pixels" if name == "fixed" and size else "".join(f", {text}" for text in scalars(sizes, {"stride"}))
    return f"{name}{side}{tested}" if name else ""


def _augmentation(record: Record) -> str:
    found = at(record.config, "data", "augment")
    if not isinstance(found, dict):
        return ""
    used = [f"{name}={short(value)}" for name, value in sorted(found.items()) if value and value != IDLE.get(name)]
    return ", ".join(used) or "none"


def _model(record: Record) -> str:
    options = ", ".join(scalars(record.config.get("backbone") or {}, set()))
    backbone, head = record.choices.get("backbone", ""), record.choices.get("head", "")
    taken, tensors = (*record.pretrained, 0, 0)[:2]
    start = f", {taken} of {tensors} tensors pretrained" if taken else ""
    shape = " × ".join(map(str, record.neck_input))
    return f"{backbone}{f' ({options})' if options else ''}{start}, neck on {shape}, head {head}" if backbone else ""


def _optimizer(record: Record) -> str:
    node, name = record.config.get("optimizer") or {}, record.choices.get("optimizer", "")
    options = [f"{key} {short(node[key])}" for key in ("lr", "weight_decay") if short(node.get(key))]
    return ", ".join([name, *options]) if name else ""


def _schedule(record: Record) -> str:
    name = record.choices.get("schedule", "")
    return ", ".join([name, *scalars(record.config.get("schedule") or {}, set())]) if name else ""


def _epochs(record: Record) -> str:
    return f"{record.epochs} ({record.steps:,} steps)" if record.epochs else ""


def _batch(record: Record) -> str:
    size = record.config.get("batch_size")
    return f"{size} images" if size else ""


def _evaluation(record: Record) -> str:
    mirror, shift = record.config.get("mirror"), record.config.get("shift")
    views = [*(["mirrored images"] if mirror else []), *([f"images shifted by {short(shift)} px"] if shift else [])]
    return f"averages the logits of {' and of '.join(views)} as well" if views else ""


def _precision(record: Record) -> str:
    return short(at(record.config, "trainer", "precision"))


_TELL: dict[str, Callable[[Record], str]] = {
    "data": _data,
    "images": _images,
    "image sizes": _sizes,
    "augmentation": _augmentation,
    "model": _model,
    "epochs": _epochs,
    "batch": _batch,
    "optimizer": _optimizer,
    "learning rate's schedule": _schedule,
    "precision": _precision,
    "evaluation": _evaluation,
}


def at(node: Any, *keys: str) -> Any:
    """The value below these keys, None where there is none."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def scalars(node: dict[str, Any], without: set[str]) -> list[str]:
    """The plain values of a part's options, such as `depth=8`, by name: as its record is written and read again."""
    plain = {name: short(node[name]) for name in sorted(node) if name[:1] != "_" and name not in without}
    return [f"{name}={text}" for name, text in plain.items() if text]


def short(value: Any) -> str:
    """A plain value in words; nothing for what is none."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | int) else ""
