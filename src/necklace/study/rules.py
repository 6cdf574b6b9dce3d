"""By which rule a study decides, since when, and all that it ever compared: `records/rules.json`.

The file is written before the first run is trained, so that rule, margin and alpha stand before the first result. While there
is none, all may change; what changes afterwards is added to the history, and so are comparisons. What a study once compared
counts for ever, whether its row is in the table or not: else one could try rows until one is starred.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from necklace.atomic import write_changed
from necklace.identity import hash_identity, hash_of_name
from necklace.record import checked, read_json
from necklace.seeding import without_seed

FILE = "rules.json"
CONTROL = "control"
"""What a row is compared with besides the baseline: the control of its size, whichever row that is."""


@dataclass(frozen=True)
class Setting:
    """What decides, from some time on.

    Attributes:
        rule: `fixed`: the number of seeds is set beforehand; `anytime`: it may depend on the results.
        margin: The smallest difference that matters, in points of the metric.
        alpha: Probability that any verdict of the study is wrong.
        records: How many runs of the study had finished when it was set.
    """

    rule: str
    margin: float
    alpha: float
    records: int = 0


@dataclass(frozen=True)
class Compared:
    """A comparison that the study makes or once made.

    Attributes:
        row: Name of the row; of a run, where the row's name is not known.
        to: Name of the baseline, or `CONTROL`.
        kinds: Digests of what the row's runs are apart from the seed, one for each choice.
        to_kinds: Those of the baseline; empty for a control.
        earlier: How many comparisons there were before it was taken up.
        new: How many were taken up together with it.
    """

    row: str
    to: str
    kinds: tuple[str, ...]
    to_kinds: tuple[str, ...]
    earlier: int
    new: int


@dataclass(frozen=True)
class Rules:
    """The content of `records/rules.json`.

    Attributes:
        settings: One after the other; the last one holds.
        compared: In the order in which they were taken up.
        left_out: Row to its seeds that were trained and are not in the table.
    """

    settings: tuple[Setting, ...] = ()
    compared: tuple[Compared, ...] = ()
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, row: str, to: str) -> Compared | None:
        """The comparison that a row of today's table stands for; None if it was never taken up."""
        return next((one for one in reversed(self.compared) if (one.row, one.to) == (row, to)), None)


@dataclass(frozen=True)
class Asked:
    """What a study asks for now.

    Attributes:
        setting: Rule, margin and alpha.
        baseline: Name of the baseline.
        kinds: Row to the digests of its runs apart from the seed.
        seeds: Row to its seeds.
        controls: Names of the matched rows.
    """

    setting: Setting
    baseline: str
    kinds: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, tuple[int, ...]]
    controls: Sequence[str]


@dataclass(frozen=True)
class Dropped:
    """A finished run that the study no longer asks for.

    Attributes:
        name: Its name.
        kind: Digest of what it is apart from the seed.
        seed: Its seed.
    """

    name: str
    kind: str
    seed: int


def kind_of(identity: Mapping[str, Any]) -> str:
    """A digest of what a run is apart from its seed."""
    return hash_identity(without_seed(identity))


def updated(before: Rules, asked: Asked, dropped: Sequence[Dropped], records: int) -> Rules:
    """The rules of a study as it is now.

    Args:
        before: Those that its folder has.
        asked: What study.yaml and the command ask for.
        dropped: Finished runs of the study that are not asked for any more.
        records: How many finished runs the study has, those dropped included.
    """
    left_out = left_out_of(asked.kinds, asked.seeds, dropped)
    if not records:
        return Rules((asked.setting,), _taken_up(_wanted(asked), 0), left_out)
    settings = before.settings
    last = replace(settings[-1], records=0) if settings else None
    if last != replace(asked.setting, records=0):
        settings = (*settings, replace(asked.setting, records=records))
    known = {(one.kinds, one.to, one.to_kinds) for one in before.compared}
    new = [one for one in _wanted(asked) if (one.kinds, one.to, one.to_kinds) not in known]
    counted = {kind for one in (*before.compared, *new) for kind in (*one.kinds, *one.to_kinds)}
    gone = {run.kind: run for run in reversed(dropped) if run.kind not in counted}
    new += [Compared(run.name, asked.baseline, (kind,), (), 0, 0) for kind, run in sorted(gone.items())]
    return Rules(settings, (*before.compared, *_taken_up(new, len(before.compared))), left_out)


def left_out_of(
    kinds: Mapping[str, Sequence[str]], seeds: Mapping[str, Sequence[int]], dropped: Iterable[Dropped]
) -> dict[str, tuple[int, ...]]:
    """Row to its finished seeds that the study no longer asks for."""
    found: dict[str, set[int]] = {}
    for run in dropped:
        for row, own in kinds.items():
            if run.kind in own and run.seed not in seeds[row]:
                found.setdefault(row, set()).add(run.seed)
    return {row: tuple(sorted(numbers)) for row, numbers in sorted(found.items())}


def dropped_runs(folder: Path, wanted: Iterable[str]) -> list[Dropped]:
    """The finished runs in a study's `records/` and `records/retired/` whose hash is not among those wanted.

    One whose file is damaged is passed over here; whatever reads it says so.
    """
    hashes = set(wanted)
    found = []
    for path in sorted([*(folder / "records").glob("*_*.json"), *(folder / "records" / "retired").glob("*_*.json")]):
        if hash_of_name(path.stem) in hashes:
            continue
        try:
            record = read_json(path)["record"]
            found.append(Dropped(path.stem, kind_of(record["identity"]), int(record["identity"]["seed"])))
        except (ValueError, OSError, KeyError, TypeError):
            continue
    return found


def read_rules(folder: Path) -> Rules | None:
    """The rules in a study's folder; None if there are none.

    Raises:
        ValueError: The file is not what `write_rules` writes.
    """
    path = folder / "records" / FILE
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("settings", "compared")):
        raise ValueError(f"{path}: must have settings and compared, a list each, and left_out")
    settings = tuple(checked(Setting, one, path, f"settings.{n}") for n, one in enumerate(content["settings"]))
    compared = tuple(checked(Compared, _tuples(one), path, f"compared.{n}") for n, one in enumerate(content["compared"]))
    if not settings:
        raise ValueError(f"{path}: settings: is empty")
    left_out = _tuples(content.get("left_out"))
    return replace(checked(Rules, {"left_out": left_out}, path), settings=settings, compared=compared)


def write_rules(rules: Rules, folder: Path) -> None:
    """Write the rules into a study's folder."""
    path = folder / "records" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_changed(path, json.dumps(asdict(rules), indent=1, allow_nan=False) + "\n")


def _wanted(asked: Asked) -> list[Compared]:
    """The comparisons of a study: every row with the baseline, and every row that may have a control with that."""
    base = asked.kinds[asked.baseline]
    others = [row for row in asked.kinds if row != asked.baseline]
    wanted = [Compared(row, asked.baseline, asked.kinds[row], base, 0, 0) for row in others]
    if asked.controls:
        wanted += [Compared(row, CONTROL, asked.kinds[row], (), 0, 0) for row in others if row not in asked.controls]
    return wanted


def _taken_up(new: Sequence[Compared], earlier: int) -> tuple[Compared, ...]:
    return tuple(replace(one, earlier=earlier, new=len(new)) for one in new)


def _tuples(content: Any) -> Any:
    """A mapping whose lists are tuples."""
    if not isinstance(content, dict):
        return content
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
