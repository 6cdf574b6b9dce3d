"""A study as its author wrote it: experiments/NAME/study.yaml.

```yaml
question: Does pooling help where the backbone does not see far enough?
baseline: none                  # a row
seeds: [0, 1, 2]                # or {init: [0, 1, 2], order: 0, augment: 0}, see varying.py
overrides: {data: context, epochs: 4}   # of every run
rows:                           # a union of grids: each is the product of its lists; `cells:` in older files
  - {neck: [none, sppf]}
  - {neck: focal, neck.focal_level: [1, 2], neck.focal_window: [3, 7]}
  - {neck: conv, match: params, to: sppf}   # width solved until the neck has as many parameters (or macs) as that row's
# optional
same: [spp, sppf]               # two rows that compute the same: what differs between them is numerical noise
choose: {optimizer.lr: [1e-3, 3e-3]}    # tried for each row, chosen on val
metric: test/balanced_acc       # one of METRICS, or test/class_acc/CLASS; by default what the task is known by, here test/acc
tolerance: 0.02                 # of the metric, when a run is trained again on another machine
margin: 0.5                     # smallest difference that matters, in points; by default 0.5, of average precisions 1
alpha: 0.05                     # probability that any of the table's verdicts is wrong
rule: fixed                     # or anytime: the number of seeds may depend on the results
```
"""

import difflib
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from necklace.guard.interpolations import check_references, texts
from necklace.guard.names import check_option
from necklace.guard.plain_yaml import read_plain_yaml
from necklace.guard.text import on_one_line, printable
from necklace.study.metrics import METRIC_NAMES, known_metric
from necklace.study.overrides import override
from necklace.study.varying import SEEDS_ALLOWED, VARY, Seeds, check_streams, seeds_of

EXPERIMENTS, STUDY_FILE = Path("experiments"), "study.yaml"
# How far a matched row's size may be from what it is matched to.
MATCH_WITHIN = 0.02
# A few lines of lists make billions.
MOST_RUNS = 100_000
SET_BY_THE_STUDY = ("seed", "study", "rerun", "outputs")


@dataclass(frozen=True)
class StudyFile:
    """The content of a `study.yaml`; see the module's docstring.

    Attributes:
        name: Name of its folder.
        question: In the author's words.
        baseline: Name of a row.
        seeds: Distinct, in order.
        overrides: Hydra overrides of every run.
        grids: Option to its value or values, a product each.
        same: Names of two rows, or None.
        choose: Option to the values that are tried for each row.
        metric: Name of a metric of the records; None for what the task is known by.
        tolerance: Largest difference of the metric that a repetition on another machine may show.
        margin: Smallest difference of the metric that matters, in points; None for what is usual for the metric.
        alpha: Probability that any of the table's verdicts is wrong.
        rule: `fixed`, `anytime`, or None for what the study's folder says, and `fixed` where it says nothing.
    """

    name: str
    question: str
    baseline: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    grids: tuple[dict[str, Any], ...]
    same: tuple[str, str] | None
    choose: dict[str, tuple[Any, ...]]
    metric: str | None
    tolerance: float
    margin: float | None = None
    alpha: float = 0.05
    rule: str | None = None


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("values repeat")
    return values


class _Content(BaseModel):
    """Keys and types of a study.yaml; a description says what is allowed, for the message."""

    model_config = ConfigDict(extra="forbid")

    question: Any
    baseline: Any
    seeds: Annotated[Seeds, PlainValidator(seeds_of)] = Field(description=SEEDS_ALLOWED)
    rows: Annotated[list[Annotated[dict[Any, Any], Field(min_length=1)]], Field(min_length=1)] = Field(
        description="a list of grids, each a mapping of options to values"
    )
    overrides: dict[StrictStr, Any] = Field({}, description="a mapping of options to values")
    same: Annotated[list[StrictStr], Field(min_length=2, max_length=2), AfterValidator(_distinct)] | None = Field(
        None, description="a list of two different rows"
    )
    choose: dict[StrictStr, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="a mapping of options to lists of values"
    )
    metric: Annotated[StrictStr, AfterValidator(known_metric)] | None = Field(None, description=f"one of {METRIC_NAMES}")
    tolerance: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)] = Field(0.02, description="a share between 0 and 1")
    margin: Annotated[StrictFloat | StrictInt, Field(gt=0, le=100)] | None = Field(
        None, description="points of the metric, above 0 and at most 100"
    )
    alpha: Annotated[StrictFloat | StrictInt, Field(gt=0, le=0.2)] = Field(
        0.05, description="a probability above 0 and at most 0.2"
    )
    rule: Literal["fixed", "anytime"] | None = Field(None, description="fixed or anytime")


def read_study(path: Path) -> StudyFile:
    """Read and check a `study.yaml`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A key or value is wrong; the message names file, key, value and what is allowed.
    """
    if not path.is_file():
        raise FileNotFoundError(_missing(path))
    try:
        content = read_plain_yaml(path)
        check_references(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a mapping of {', '.join(sorted(_Content.model_fields))}")
    rows_key = "cells" if "cells" in content and "rows" not in content else "rows"
    found = _parsed({"rows" if key == rows_key else key: value for key, value in content.items()}, rows_key, path)
    _check_grids(found, rows_key, path)
    _check_options(found, rows_key, path)
    try:
        check_streams(found.seeds, found.rows, [*found.overrides, *found.choose])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_names(found, rows_key, path)
    return StudyFile(
        name=path.parent.name,
        question=" ".join(str(found.question).split()),
        baseline=str(found.baseline),
        seeds=found.seeds.values,
        overrides=(*(override(key, value) for key, value in found.overrides.items()), *found.seeds.overrides),
        grids=tuple(found.rows),
        same=None if found.same is None else (found.same[0], found.same[1]),
        choose={key: tuple(values) for key, values in found.choose.items()},
        metric=found.metric,
        tolerance=float(found.tolerance),
        margin=None if found.margin is None else float(found.margin),
        alpha=float(found.alpha),
        rule=found.rule,
    )


def study_name(given: str) -> str:
    """The name of a study from what was given for it: NAME, or what a shell completes it to, such as experiments/NAME/.

    Raises:
        ValueError: It is neither.
    """
    base = EXPERIMENTS.absolute()
    path = Path(given)
    path = path.parent if path.name == STUDY_FILE else path
    whole = Path(os.path.normpath(path.absolute()))
    if whole != base and whole.is_relative_to(base):
        path = whole.relative_to(base)
    parts = path.parts
    hidden = any(part.startswith((".", "~")) or not part.strip() for part in parts)
    if path.is_absolute() or not parts or hidden or "\\" in given or not given.isprintable():
        raise ValueError(f"NAME={given!r}: must be the name of a folder in {base}")
    return path.as_posix()


def _missing(path: Path) -> str:
    """The message where there is no study: where it was looked for, and which there are."""
    folder = path.parent.parent.absolute()
    others = sorted(file.parent.name for file in folder.glob(f"*/{STUDY_FILE}"))
    near = difflib.get_close_matches(path.parent.name, others, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{path.parent.name}: there is no such study in {folder}; {hint}there are: {', '.join(others) or 'none'}"


def _parsed(content: Mapping[Any, Any], rows_key: str, path: Path) -> _Content:
    try:
        return _Content.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    named = [(problem["type"], str(problem["loc"][0]).replace("rows", rows_key)) for problem in problems]
    missing, unknown = ([name for kind, name in named if kind == of] for of in ("missing", "extra_forbidden"))
    if missing or unknown:
        known = sorted(name.replace("rows", rows_key) for name in _Content.model_fields)
        raise ValueError(
            f"{path}: missing {sorted(missing) or 'nothing'}, unknown {sorted(unknown) or 'nothing'}; known: {known}"
        ) from None
    field = str(problems[0]["loc"][0])
    allowed = _Content.model_fields[field].description
    raise ValueError(f"{path}: {named[0][1]}: {content[field]!r}: must be {allowed}") from None


def _check_names(found: _Content, rows_key: str, path: Path) -> None:
    """Refuse keys and choices that mean more to Hydra than an option's name, or a file of the configs."""
    for where, grid in (("overrides", found.overrides), ("choose", found.choose), *((rows_key, grid) for grid in found.rows)):
        for place, text in texts(grid):
            if on_one_line(text) != text:
                raise ValueError(f"{path}: {where}: {printable(place)}: {text!r}: must be printable, on one line")
        for key, value in grid.items():
            if key not in ("match", "to", VARY):
                try:
                    check_option(key, value)
                except ValueError as error:
                    raise ValueError(f"{path}: {where}: {error}") from None


def _check_grids(found: _Content, rows_key: str, path: Path) -> None:
    count = math.prod(map(len, found.choose.values())) * len(found.seeds.values)
    runs = sum(count * math.prod(len(value) for value in grid.values() if isinstance(value, list)) for grid in found.rows)
    if runs > MOST_RUNS:
        raise ValueError(f"{path}: {rows_key}: {runs} runs: must be at most {MOST_RUNS}")
    for grid in found.rows:
        if not all(isinstance(key, str) for key in grid):
            raise ValueError(f"{path}: {rows_key}: {grid}: options are words, such as neck.focal_level")
        if ("match" in grid) != ("to" in grid) or grid.get("match", "params") not in ("params", "macs"):
            raise ValueError(f"{path}: {rows_key}: {grid}: a matched row has match: params or macs, and to: ROW")
        if not isinstance(grid.get("to", ""), str):
            raise ValueError(f"{path}: {rows_key}: to: {grid['to']}: must be the name of one row")
        if any(value == [] for value in grid.values()):
            raise ValueError(f"{path}: {rows_key}: {grid}: an empty list gives no row")


def _check_options(found: _Content, rows_key: str, path: Path) -> None:
    """Refuse options that the study sets itself, and those that would make a row other than its name says."""
    in_rows = {_option(key) for grid in found.rows for key in grid}
    for where, keys in (("overrides", found.overrides), (rows_key, in_rows), ("choose", found.choose)):
        for key in map(_option, keys):
            if key in SET_BY_THE_STUDY or key.partition(".")[0].partition("/")[0] == "hydra":
                raise ValueError(f"{path}: {where}: {key}: the study sets this itself; seeds are listed under seeds")
    for key in map(_option, found.choose):
        if key in in_rows:
            raise ValueError(f"{path}: choose: {key}: the rows set it; what they are called would not be what they are")


def _option(key: object) -> str:
    """The option that an override's key sets."""
    return str(key).lstrip("+~")


def shared_overrides(study: StudyFile, extra: Sequence[str]) -> tuple[str, ...]:
    """The overrides of all runs: the study's, those given besides, and its name. Unless these say otherwise, with knockouts."""
    return ("callbacks.knockout=true", *study.overrides, *extra, override("study", study.name))


def expand(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The product of a grid's lists; a value that is no list is a list of one."""
    options = {key: value if isinstance(value, list) else [value] for key, value in grid.items() if key not in ("match", "to")}
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def row_name(options: Mapping[str, Any]) -> str:
    """A row's name from its options, such as `focal, focal_level=2`."""
    parts = [str(options["neck"])] if "neck" in options else []
    for key, value in options.items():
        if key != "neck":
            parts.append(f"{key.removeprefix('+').removeprefix('neck.')}={value}")
    return ", ".join(parts)


def named_rows(grid: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The rows of a grid: the options of each, and its name."""
    suffix = f", {grid['match']} as {grid['to']}" if "match" in grid else ""
    return [(options, row_name(options) + suffix) for options in expand(grid)]


def row_names(study: StudyFile) -> list[str]:
    """The names of all rows that a study asks for, in order."""
    return list(dict.fromkeys(name for grid in study.grids for _, name in named_rows(grid)))


def first_seeds(study: StudyFile, count: int) -> tuple[int, ...]:
    """The first `count` seeds of a study: those of its file, and beyond them the next whole numbers."""
    more = itertools.count(max(study.seeds) + 1)
    return (*study.seeds[:count], *itertools.islice(more, max(0, count - len(study.seeds))))


def axes_of(study: StudyFile) -> tuple[str, ...]:
    """The config keys that may differ between a study's runs: those of its grids, and what it chooses."""
    keys = [*study.choose, *(key for grid in study.grids for key in grid if key not in ("match", "to"))]
    matched = ["neck"] if any("match" in grid for grid in study.grids) else []
    return tuple(dict.fromkeys(["streams" if key == VARY else key.removeprefix("+") for key in keys] + matched))
