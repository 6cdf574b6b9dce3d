"""Whether a study's runs may be compared: all that is not one of its axes has to be equal over the runs of a table."""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from necklace.code_version import version_digest
from necklace.identity import ADDED, trains_as_one
from necklace.record import Record
from necklace.study.store import StudyRecords, StudyRun


class NotComparable(ValueError):
    """Runs differ in more than the study's axes, or two seeds or two rows gave the same weights."""


def check_comparable(study: StudyRecords) -> list[str]:
    """Check that a study's finished runs differ in its axes only.

    Args:
        study: The study; without `axes`, as for a set of runs that no study.yaml asked for, every difference is allowed.

    Returns:
        A sentence for each difference that was allowed.

    Raises:
        NotComparable: A field outside the axes differs, with its values and runs; or two seeds of a row, or two rows on every
            seed, gave the same weights.
    """
    info = study.info
    finished = [(run, run.record) for run in study.runs if run.record]
    _check_seeds(finished)
    equal = equal_rows(study)
    ignored = [text for text, classes_differ in equal.items() if not classes_differ]
    if ignored and info.axes is not None:
        raise NotComparable(
            f"{info.name}: {'; '.join(ignored)}. What their names say has no effect, so a table would show an ablation that "
            "never happened; two rows that compute the same are declared under same: in study.yaml"
        )
    found = [
        (field, f"{field} differs", values)
        for field, values in differences([record for _, record in finished], info.axes or ("neck",)).items()
    ]
    if changed := changed_code(study.runs):
        parts = [{name: record.code[name] for name in changed if name in record.code} for _, record in finished]
        found.append(("code", f"code differs in {_few(changed)}", [version_digest(part) for part in parts]))
    allowed, refused = [f"{text}." for text in equal], []
    for field, text, values in found:
        runs: dict[str, list[str]] = {}
        for (run, _), value in zip(finished, values, strict=True):
            runs.setdefault(value, []).append(f"{run.row}, seed {run.seed}")
        sides = "; ".join(f"{value} ({_few(names)})" for value, names in list(runs.items())[:4])
        (allowed if info.axes is None or _below(field, info.allow) else refused).append(f"{text}: {sides}")
    if refused:
        raise NotComparable(
            f"{info.name}: the runs differ in more than the axes ({', '.join(info.axes or ())}):\n  "
            + "\n  ".join(refused)
            + "\n--allow FIELD accepts a difference and says so under the table"
        )
    return allowed


# What decides how a run is evaluated, and not how it is trained: rows may differ in it alone, and share their weights.
EVALUATION = ("mirror", "shift", "data.eval_sizes", "data.sizes.eval_size", "data.test_images", "data.digest.test")


def equal_rows(study: StudyRecords) -> dict[str, bool]:
    """The rows, or two choices of a row, that ended with the same weights on every seed that both have.

    Rows that the study declares as the same are not among them, nor rows that are evaluated differently.

    Args:
        study: The study.

    Returns:
        A sentence for each such pair, with whether the two are built from different classes. Then it is a finding, as with SPP
        and SPPF, which compute the same; with equal classes an option had no effect.
    """
    weights: dict[str, dict[int, Record]] = {}
    rows: dict[str, str] = {}
    for run in study.runs:
        if run.record:
            tried = "".join(f" with {key}={value}" for key, value in run.choice.items())
            weights.setdefault(f"{run.row}'{tried}", {})[run.seed] = run.record
            rows[f"{run.row}'{tried}"] = run.row
    found: dict[str, bool] = {}
    # Equal on every seed means equal on each, so it is enough to compare what shares a hash.
    by_hash: dict[str, list[str]] = {}
    for name, records in weights.items():
        for record in records.values():
            by_hash.setdefault(record.weights_hash, []).append(name)
    pairs = dict.fromkeys(pair for names in by_hash.values() for pair in combinations(dict.fromkeys(names), 2))
    for first, second in pairs:
        both = [(weights[first][seed], weights[second][seed]) for seed in weights[first].keys() & weights[second].keys()]
        declared = study.info.same and {rows[first], rows[second]} == set(study.info.same)
        # One run under two names is another matter: a plan drops it.
        same = both and all(one.weights_hash == other.weights_hash and one.hash != other.hash for one, other in both)
        if not same or declared:
            continue
        fields = differences([both[0][0], both[0][1]], ()).keys()
        if not fields & set(EVALUATION):
            seeds = "seed" if len(both) == 1 else "seeds"
            text = f"row '{first} and row '{second} ended with the same weights on all {len(both)} {seeds}"
            found[text] = any(field.endswith("._target_") for field in fields)
    return found


def differences(records: Sequence[Record], axes: Sequence[str]) -> dict[str, list[str]]:
    """The fields outside the axes that are not the same in all records; the code is not among them.

    Args:
        records: At least two for a difference.
        axes: Config keys and groups, such as `neck` or `data/sizes`; a key stands for all below it.

    Returns:
        Field to its value in each record, as JSON; `absent` where a record has no such field. An option that came later than
        some of the records has, in these, the value that it then had.
    """
    tables = [dict(_compared_fields(record)) for record in records]
    free = [axis.replace("/", ".").lstrip("+~") for axis in axes] + ["seed"]
    if all(table.get("streams.rounding") == table["seed"] for table in tables):
        free.append("streams.rounding")  # the draw follows the seed
    # What follows from an axis is free with it: how many steps an epoch has, how many tensors a backbone.
    if any(axis in ("epochs", "batch_size") or axis.split(".")[0] in ("data", "trainer") for axis in free):
        free.append("steps")
    if any(axis.split(".")[0] == "backbone" for axis in free):
        free.append("pretrained")
    found = {}
    for field in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(field, "absent") for table in tables]
        if field in ADDED and "absent" in values:
            group = field.partition(".")[0]
            # An option of another choice is not there; with the same choice it was as before there was the option.
            having = {one.choices.get(group) for one, value in zip(records, values, strict=True) if value != "absent"}
            before = json.dumps(ADDED[field])
            values = [
                before if value == "absent" and one.choices.get(group) in having else value
                for one, value in zip(records, values, strict=True)
            ]
        if len(set(values)) > 1 and not _below(field, free):
            found[field] = values
    return found


def changed_code(runs: Sequence[StudyRun]) -> list[str]:
    """The modules in which the code of finished runs differs although it should not, in order.

    Rows have modules of their own, such as their neck's. So two runs are compared over the modules that both have: each must
    have one digest. Runs of one row differ in the seed only and must have the same modules. Runs without a common module, as
    when a record is of an earlier schema, cannot be compared: then all their modules are given.
    """
    codes = [run.record.code for run in runs if run.record]
    modules = sorted({module for code in codes for module in code})
    if codes and not set.intersection(*(set(code) for code in codes)):
        return modules
    changed = {module for module in modules if len({code[module] for code in codes if module in code}) > 1}
    rows: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        if run.record:
            rows.setdefault(json.dumps([run.row, run.choice], sort_keys=True), []).append(run.record.code)
    for own in rows.values():
        changed |= {module for module in modules if 0 < sum(module in code for code in own) < len(own)}
    return sorted(changed)


def _below(field: str, keys: Sequence[str]) -> bool:
    return any(field == key or field.startswith(key + ".") for key in keys)


def _compared_fields(record: Record) -> Iterator[tuple[str, str]]:
    """The fields that a comparison has to hold equal: the identity, the versions and the machine."""
    yield from _flat(record.identity, "")
    for field in ("steps", "pretrained"):
        yield field, json.dumps(getattr(record, field))
    yield "world_size", json.dumps(1 if trains_as_one(record.config) else record.world_size)
    yield from _flat(record.versions, "versions")
    yield from _flat(record.device, "device")
    yield "trainer.deterministic", json.dumps(record.config["trainer"].get("deterministic"))


def _flat(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(node, sort_keys=True)


def _check_seeds(finished: Sequence[tuple[StudyRun, Record]]) -> None:
    """Equal metrics of two seeds may be chance; equal weights are one run that was counted twice."""
    seen: dict[tuple[str, str], StudyRun] = {}
    for run, record in finished:
        twin = seen.setdefault((run.row, record.weights_hash), run)
        if twin.seed != run.seed:
            seeds = f"seeds {twin.seed} and {run.seed}"
            raise NotComparable(f"row '{run.row}': {seeds} ended with the same weights: the seed had no effect")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
