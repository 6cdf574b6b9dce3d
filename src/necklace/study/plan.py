"""A study as its author wrote it, and the cells that it asks for: experiments/NAME/study.yaml.

```yaml
question: Does pooling help where the backbone does not see far enough?
baseline: none                  # a row
seeds: [0, 1, 2]
overrides: {data: context, epochs: 4}   # of every cell
cells:                          # a union of grids: each is the product of its lists
  - {neck: [none, sppf]}
  - {neck: focal, neck.focal_level: [1, 2], neck.focal_window: [3, 7]}
  - {neck: conv, match: params, to: sppf}   # width solved until the neck has as many parameters (or macs) as that row's
# and where wanted
same: [spp, sppf]               # two rows that compute the same: what differs between them is numerical noise
choose: {optimizer.lr: [1e-3, 3e-3]}    # tried for each row, chosen on val
metric: test/acc                # the default, or test/map
tolerance: 0.02                 # of the metric, when a cell is trained again on another machine
```
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from necklace.cell import cell_identity, cell_label, code_digest, hash_identity
from necklace.data.splits import splits_key
from necklace.model import Model, measure_cost
from necklace.study.compose import Composer
from necklace.study.untrained import built, composed, facts_of, forget_data, resolved

MATCH_WITHIN = 0.02
KEYS = {"question", "baseline", "seeds", "overrides", "cells", "same", "choose", "metric", "tolerance"}
SET_BY_THE_STUDY = ("seed", "study", "rerun", "outputs")
METRICS = ("test/acc", "test/map", "test/map07")


@dataclass(frozen=True)
class Study:
    """What `study.yaml` says; see the module's docstring.

    Attributes:
        name: Name of its folder.
        question: In the author's words.
        baseline: Name of a row.
        seeds: Distinct, in order.
        overrides: Hydra overrides of every cell.
        grids: Option to its value or values, a product each.
        same: Names of two rows, or None.
        choose: Option to the values that are tried for each row.
        metric: Name of a figure of the records.
        tolerance: Largest difference of the metric that a repetition on another machine may show.
    """

    name: str
    question: str
    baseline: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    grids: tuple[dict[str, Any], ...]
    same: tuple[str, str] | None
    choose: dict[str, tuple[Any, ...]]
    metric: str
    tolerance: float


@dataclass(frozen=True)
class PlannedCell:
    """One run that a study asks for.

    Attributes:
        row: Name of its row.
        seed: Its seed.
        choice: Option to the value that is tried with it, where the study chooses.
        overrides: Hydra overrides that compose it.
        cell_hash: Its identity.
        label: Name of its folder.
        code: Digest of the code that would train it.
    """

    row: str
    seed: int
    choice: dict[str, Any]
    overrides: tuple[str, ...]
    cell_hash: str
    label: str
    code: str


@dataclass(frozen=True)
class Plan:
    """All cells of a study.

    Attributes:
        study: What it was made from.
        rows: Row to the overrides that make it, in order.
        axes: Config keys that may differ between cells.
        controls: Row whose width was matched to another's neck to what was matched, `params` or `macs`.
        cells: Row by row, seed by seed.
        dropped: Sentences about rows that were asked for twice.
        root: Folder that holds the cells' folders.
        pool: Folder of the launcher's locks on cores and GPUs.
        logger: The resolved config of the cells' logger, the same for all; None or empty for none.
        images: Keys of the images that the cells see, as `necklace.data.splits` has them.
    """

    study: Study
    rows: dict[str, tuple[str, ...]]
    axes: tuple[str, ...]
    controls: dict[str, str]
    cells: tuple[PlannedCell, ...]
    dropped: tuple[str, ...]
    root: Path
    pool: Path
    logger: dict[str, Any] | None
    images: tuple[str, ...]


def read_study(path: Path) -> Study:
    """Read and check a `study.yaml`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It does not say what a study has to say; the message names the key and what is allowed.
    """
    if not path.is_file():
        others = sorted(file.parent.name for file in path.parent.parent.glob("*/study.yaml"))
        raise FileNotFoundError(f"{path}: there is no such study; there are: {', '.join(others) or 'none'}")
    try:
        content = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a mapping of {', '.join(sorted(KEYS))}")
    unknown = sorted(map(str, content.keys() - KEYS))
    missing = sorted({"question", "baseline", "seeds", "cells"} - content.keys())
    if unknown or missing:
        raise ValueError(f"{path}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; known: {sorted(KEYS)}")

    def wrong(key: str, allowed: str) -> ValueError:
        return ValueError(f"{path}: {key}: {content[key]!r}: must be {allowed}")

    seeds, grids, same = content["seeds"], content["cells"], content.get("same")
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise wrong("seeds", "a list of distinct whole numbers from 0")
    if len(set(seeds)) != len(seeds):
        raise wrong("seeds", "a list of distinct whole numbers from 0")
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) and grid for grid in grids):
        raise wrong("cells", "a list of grids, each a mapping of options to values")
    for grid in grids:
        if not all(isinstance(key, str) for key in grid):
            raise ValueError(f"{path}: cells: {grid}: options are words, such as neck.focal_level")
        if ("match" in grid) != ("to" in grid) or grid.get("match", "params") not in ("params", "macs"):
            raise ValueError(f"{path}: cells: {grid}: a matched row has match: params or macs, and to: ROW")
        if any(value == [] for value in grid.values()):
            raise ValueError(f"{path}: cells: {grid}: an empty list gives no cell")
    if not isinstance(content.get("overrides", {}), dict):
        raise wrong("overrides", "a mapping of options to values")
    if same is not None and not (
        isinstance(same, list) and len(same) == 2 and all(isinstance(row, str) for row in same) and same[0] != same[1]
    ):
        raise wrong("same", "a list of two different rows")
    choose = content.get("choose", {})
    if not isinstance(choose, dict) or not all(isinstance(values, list) and values for values in choose.values()):
        raise wrong("choose", "a mapping of options to lists of values")
    in_rows = {_option(key) for grid in grids for key in grid}
    for where, keys in (("overrides", content.get("overrides", {})), ("cells", in_rows), ("choose", choose)):
        for key in map(_option, keys):
            if key in SET_BY_THE_STUDY or key.partition(".")[0].partition("/")[0] == "hydra":
                raise ValueError(f"{path}: {where}: {key}: the study sets this itself; seeds are listed under seeds")
    for key in map(_option, choose):
        if key in in_rows:
            raise ValueError(f"{path}: choose: {key}: the rows set it; what they are called would not be what they are")
    if content.get("metric", "test/acc") not in METRICS:
        raise wrong("metric", f"one of {', '.join(METRICS)}")
    tolerance = content.get("tolerance", 0.02)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance <= 1:
        raise wrong("tolerance", "a share between 0 and 1")
    return Study(
        name=path.parent.name,
        question=" ".join(str(content["question"]).split()),
        baseline=str(content["baseline"]),
        seeds=tuple(seeds),
        overrides=tuple(override(key, value) for key, value in content.get("overrides", {}).items()),
        grids=tuple(grids),
        same=None if same is None else (same[0], same[1]),
        choose={key: tuple(values) for key, values in choose.items()},
        metric=content.get("metric", "test/acc"),
        tolerance=float(tolerance),
    )


def _option(key: object) -> str:
    """The option that an override's key sets."""
    return str(key).lstrip("+~")


def override(key: str, value: Any) -> str:
    """A Hydra override that sets `key` to a YAML value."""
    if isinstance(value, list | dict):
        text = re.sub(r'"([\w./-]+)":', r"\1:", json.dumps(value))
        return f"{key}={text}"
    if value is None or isinstance(value, bool):
        return f"{key}={json.dumps(value)}"
    # What is not plainly a word would be read as something else: a number, a boolean, null, a list.
    if isinstance(value, str) and not re.fullmatch(
        r"(?!(?:true|false|null|nan|inf)$)[a-zA-Z_][\w./@:-]*", value, re.ASCII | re.I
    ):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{key}="{quoted}"'
    return f"{key}={value}"


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


def row_names(study: Study) -> list[str]:
    """The names of all rows that a study asks for, in order."""
    return list(dict.fromkeys(name for grid in study.grids for _, name in _named(grid)))


def axes_of(study: Study) -> tuple[str, ...]:
    """The config keys that may differ between a study's cells: those of its grids, and what it chooses."""
    keys = [*study.choose, *(key for grid in study.grids for key in grid if key not in ("match", "to"))]
    matched = ["neck"] if any("match" in grid for grid in study.grids) else []
    return tuple(dict.fromkeys([key.removeprefix("+") for key in keys] + matched))


def _named(grid: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    suffix = f", {grid['match']} as {grid['to']}" if "match" in grid else ""
    return [(options, row_name(options) + suffix) for options in expand(grid)]


def make_plan(study: Study, extra: Sequence[str] = (), seeds: int | None = None) -> Plan:
    """Compose all cells of a study; Hydra has to be initialised with the configs.

    Args:
        study: The study.
        extra: Hydra overrides of all cells, on top of the study's.
        seeds: So many of the study's seeds; beyond them, the next whole numbers.

    Returns:
        The plan; cells that come twice are in it once.

    Raises:
        ValueError: The baseline or another named row is none, or a width cannot be matched.
    """
    forget_data()  # which may have changed since an earlier plan
    if seeds is not None:
        if seeds < 1:
            raise ValueError(f"--seeds {seeds}: must be at least 1")
        more = itertools.count(max(study.seeds) + 1)
        chosen = (*study.seeds[:seeds], *itertools.islice(more, max(0, seeds - len(study.seeds))))
    else:
        chosen = study.seeds
    shared = (*study.overrides, *extra, override("study", study.name))
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    rows: dict[str, tuple[str, ...]] = {}
    axes = axes_of(study)
    matched: list[tuple[str, dict[str, Any], Mapping[str, Any]]] = []
    for grid in study.grids:
        for options, name in _named(grid):
            if "match" in grid:
                matched.append((name, options, grid))
                rows.setdefault(name, ())  # its place in the order; its width comes when all rows are known
            else:
                rows.setdefault(name, tuple(override(key, value) for key, value in options.items()))
    for name, options, grid in matched:
        if not rows.get(grid["to"]):
            raise ValueError(f"{study.name}: to: {grid['to']}: there is no such row; rows: {', '.join(rows)}")
        overrides = tuple(override(key, value) for key, value in options.items())
        width = _matched_width(composer, (*shared, *overrides), (*shared, *rows[grid["to"]]), grid["match"], name)
        rows[name] = (*overrides, f"neck.width={width}")
    for row in [study.baseline, *(study.same or ())]:
        if row not in rows:
            raise ValueError(f"{study.name}: {row}: there is no such row; rows: {'; '.join(rows)}")
    planner = _Planner(composer)
    cells: dict[str, PlannedCell] = {}
    dropped, kept = [], {}
    choices = [dict(zip(study.choose, values, strict=True)) for values in itertools.product(*study.choose.values())]
    for name, overrides in rows.items():
        own: list[PlannedCell] = []
        for choice in choices:
            tried = tuple(override(key, value) for key, value in choice.items())
            try:
                own += planner.cells(name, choice, (*shared, *overrides, *tried), chosen)
            except (ValueError, HydraException, OmegaConfBaseException) as error:
                raise ValueError(f"{study.name}: row '{name}': {error}") from error
        twins = {cells[cell.cell_hash].row for cell in own if cell.cell_hash in cells}
        if twins and not all(cell.cell_hash in cells for cell in own):
            raise ValueError(f"{study.name}: some of the cells of row '{name}' are those of row '{', '.join(sorted(twins))}'")
        if twins:
            dropped.append(f"row '{name}' is the same as row '{', '.join(sorted(twins))}' and was dropped")
            if name == study.baseline or name in (study.same or ()):
                raise ValueError(f"{study.name}: {dropped[-1]}, but the study names it")
            continue
        kept[name] = overrides
        cells |= {cell.cell_hash: cell for cell in own}
    return Plan(
        study=study,
        rows=kept,
        axes=axes,
        controls={name: grid["match"] for name, _, grid in matched if name in kept},
        cells=tuple(cells.values()),
        dropped=tuple(dropped),
        root=planner.root,
        pool=planner.root.parent / ".slots",
        logger=planner.logger,
        images=tuple(planner.images),
    )


class _Planner:
    """Turns overrides into cells; composing and reading data once for all cells that share them."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.root = Path()
        self.logger: dict[str, Any] | None = None
        self.images: dict[str, None] = {}
        self._codes: dict[str, str] = {}

    def cells(self, row: str, choice: dict[str, Any], overrides: tuple[str, ...], seeds: Iterable[int]) -> list[PlannedCell]:
        config, choices = composed(self.composer, overrides)
        refers = "${seed}" in json.dumps(OmegaConf.to_container(config, resolve=False), default=str)
        shared = resolved(config)
        self.root, self.logger = Path(shared["outputs"]) / str(shared["study"]), shared["logger"]
        targets = json.dumps(sorted(part for part in re.findall(r"'_target_': '([^']+)'", str(shared))))
        if targets not in self._codes:
            self._codes[targets] = code_digest(shared)
        found = []
        for seed in seeds:
            if refers:
                config.seed = seed
                shared = resolved(config)
            plain = {**shared, "seed": seed}
            self.images[splits_key(plain["data"])] = None
            cell_hash = hash_identity(cell_identity(plain, facts_of(plain).digest))
            own = (*overrides, f"seed={seed}")
            found.append(
                PlannedCell(
                    row=row,
                    seed=seed,
                    choice=choice,
                    overrides=own,
                    cell_hash=cell_hash,
                    label=f"{cell_label(choices, list(own), seed)}_{cell_hash}",
                    code=self._codes[targets],
                )
            )
        return found


def _matched_width(composer: Composer, own: tuple[str, ...], target: tuple[str, ...], what: str, name: str) -> int:
    """The width at which the row's neck costs as much as the target's, within `MATCH_WITHIN`."""
    model, size = built(composed(composer, target)[0])
    wanted = getattr(measure_cost(model, size)["neck"], what)
    config = composed(composer, own)[0]
    if "width" not in config.neck:
        raise ValueError(f"row '{name}': only a neck with an option neck.width can be matched, such as conv")
    backbone = model.backbone  # the same in all rows: fairness checks it

    def count(width: int) -> int:
        with_width = config.copy()
        with_width.neck.width = width
        neck = instantiate(with_width.neck, channels=backbone.out_channels)
        return getattr(measure_cost(Model(backbone, neck, nn.Identity()), size)["neck"], what)

    low, high = 1, 2
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:  # count(low) < wanted <= count(high), or low is 1
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    width = min((low, high), key=lambda w: abs(count(w) - wanted))
    if wanted == 0 or abs(count(width) / wanted - 1) > MATCH_WITHIN:
        raise ValueError(
            f"row '{name}': no width comes within {MATCH_WITHIN:.0%} of {wanted:,} {what}; "
            f"the nearest is {width} with {count(width):,}"
        )
    return width
