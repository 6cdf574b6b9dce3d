"""Check a study: derive everything that it committed from its records again, and compare."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from necklace.guard.private import without_any_home
from necklace.guard.targets import is_part
from necklace.identity import hash_identity, hash_of_name, strange_options
from necklace.record import Record, unpack_bits
from necklace.results.analysis import analyse
from necklace.results.evidence import check_evidence
from necklace.results.figure_data import figure_data
from necklace.results.methods import methods_files
from necklace.results.report import report_html
from necklace.results.table import table_text
from necklace.results.write import table_files
from necklace.seeding import without_seed
from necklace.study.metrics import default_margin, usual_metric
from necklace.study.rules import FILE, dropped_runs, kind_of, left_out_of
from necklace.study.store import RETIRED, StudyRecords, StudyRun, evidence_file, thumbnail_files
from necklace.study.study_file import StudyFile, axes_of, first_seeds, read_study, row_names


def verify(study: StudyRecords, folder: Path) -> list[str]:
    """Derive tables, figures and the report from the records again, and compare; check the records themselves.

    Pictures are compared by the data they were drawn from, since their bytes depend on matplotlib's version.

    Args:
        study: The study and its runs, as `records/` has them.
        folder: The study's folder.

    Returns:
        A sentence for each difference, and for what makes the runs not comparable; empty if there is none.
    """
    problems = [f"{run.name}: set aside: {run.failure}" for run in study.runs if run.state == "damaged"]
    problems += [f"{run.name}: {problem}" for run in study.runs for problem in _check_run(run)]
    problems += _check_rows(study)
    problems += _check_listed(study, folder / "records")
    problems += _check_rules(study, folder)
    if (folder / "study.yaml").exists():
        problems += _check_study(study, read_study(folder / "study.yaml"))
    try:
        return problems + _check_derived(study, folder)
    except ValueError as error:  # not comparable, or evidence that cannot be read
        return problems if any(str(error) in problem for problem in problems) else [*problems, str(error)]


def _check_derived(study: StudyRecords, folder: Path) -> list[str]:
    """The differences between the committed files and those that the records give."""
    results = analyse(study)
    table = table_text(results)
    figures = figure_data(results)
    expected = table_files(study, table) | {f"figures/{name}.json": json.dumps(data) for name, data in figures.items()}
    expected |= methods_files(results)
    expected["report.html"] = report_html(results, table)
    found = {str(path.relative_to(folder)) for path in folder.glob("figures/*.json")}
    problems = [f"{name}: no figure of this study" for name in sorted(found - expected.keys())]
    for name, text in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: is missing")
            continue
        committed, derived = (_compared(content, path.suffix) for content in (path.read_text(encoding="utf-8"), text))
        if committed != derived:
            where = "" if path.suffix == ".html" else _first_difference(committed, derived)
            problems.append(f"{name}: is not what the records give{where}")
    return problems + [f"figures/{name}.png: is missing" for name in figures if not (folder / f"figures/{name}.png").is_file()]


def _check_listed(study: StudyRecords, records: Path) -> list[str]:
    """The files in `records/` that belong to no run of the study; retired ones have a folder of their own."""
    listed = {f"{run.name}.json" for run in study.runs if run.record} | {"study.json", "costs.json", FILE, RETIRED}
    listed |= {evidence_file(records, run.name).name for run in study.runs if run.evidence}
    listed |= {path.name for run in study.runs for path in thumbnail_files(records, run.name).values()}
    return [f"records/{path.name}: belongs to no run" for path in sorted(records.iterdir()) if path.name not in listed]


def _check_rules(study: StudyRecords, folder: Path) -> list[str]:
    """Whether the rules know all that the study compares and compared, and the seeds that it leaves out."""
    rules, baseline = study.rules, study.info.baseline
    if rules is None or baseline is None:
        return []
    problems = []
    known: dict[str, tuple[str, ...]] = {}
    for one in rules.compared:  # of several, the last holds
        known |= {one.row: one.kinds} | ({one.to: one.to_kinds} if one.to_kinds else {})
    known = {row: known.get(row, ()) for row in study.info.rows}
    for run in study.runs:
        compared = run.row != baseline or len(study.info.rows) > 1
        if compared and run.record and kind_of(run.record.identity) not in known[run.row]:
            problems.append(f"records/{FILE}: does not know {run.name}")
    dropped = dropped_runs(folder, [hash_of_name(run.name) for run in study.runs])
    counted = {kind for one in rules.compared for kind in (*one.kinds, *one.to_kinds)}
    problems += [f"records/{FILE}: does not count {run.name}" for run in dropped if run.kind not in counted]
    seeds = {row: [run.seed for run in study.runs if run.row == row] for row in study.info.rows}
    left_out = left_out_of(known, seeds, dropped)
    if left_out != rules.left_out:
        problems.append(f"records/{FILE}: left_out is {rules.left_out}; records/{RETIRED} gives {left_out}")
    if any(not (rule.margin > 0 and 0 < rule.alpha <= 0.2 and rule.rule in ("fixed", "anytime")) for rule in rules.settings):
        problems.append(f"records/{FILE}: settings: a margin is not above 0, an alpha not in (0, 0.2], or a rule not known")
    return problems


def _check_run(run: StudyRun) -> list[str]:
    """The contradictions between a run, its record and its learning curve."""
    record = run.record
    if record is None:
        return []
    problems = check_record(record) + check_evidence(run)
    if (run.name, run.seed) != (record.name, record.config["seed"]):
        problems.append(f"is listed as seed {run.seed}, but its record is of {record.name}, seed {record.config['seed']}")
    if not 0 <= record.best_epoch < record.epochs:
        problems.append(f"best_epoch is {record.best_epoch} of {record.epochs}")
        return problems
    for name, values in run.curve.items():
        at_best = values[record.best_epoch] if record.best_epoch < len(values) else None
        if (
            name in ("val/acc", "val/balanced_acc", "val/map", "val/box_map")
            and at_best is not None
            and abs(at_best - record.metrics[name]) > 1e-4
        ):
            problems.append(f"{name} is {record.metrics[name]}, but {at_best} at its best epoch")
    return problems


def _check_rows(study: StudyRecords) -> list[str]:
    """Whether the runs of a row differ in the seed only, and from those of the other rows."""
    identities: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in study.runs:
        found = identities.setdefault((run.row, json.dumps(run.choice, sort_keys=True)), [])
        found += [run.record.identity] if run.record else []
    problems = []
    seen: dict[str, tuple[str, str]] = {}
    for key, found in identities.items():
        row = key[0]
        # A rounding that stays at 1 is that of seed 1 by chance alone; one that follows the seed is so in each run.
        stays = {hash_identity({**identity, "seed": None}) for identity in found}
        own = stays if len(stays) < 2 else {hash_identity(without_seed(identity)) for identity in found}
        if len(own) > 1:
            problems.append(f"row '{row}': its records differ in more than the seed")
        for kind in own:
            if seen.setdefault(kind, key) != key:
                problems.append(f"row '{row}': its records are those of row '{seen[kind][0]}'")
    return problems


def _check_study(study: StudyRecords, asked: StudyFile) -> list[str]:
    """Whether the records are of the study that study.yaml describes."""
    info = study.info
    problems = []
    wanted = {name: getattr(asked, name) for name in ("question", "baseline", "metric", "same", "tolerance", "overrides")}
    if asked.metric is None:
        tasks = {run.record.config["task"]["_target_"] for run in study.runs if run.record and run.row == info.baseline}
        # What another task is known by only its code says, which is not run for this.
        wanted["metric"] = usual_metric(tasks.pop()) if len(tasks) == 1 and is_part("task", *tasks) else info.metric
    wanted["overrides"] = info.overrides if _homeless(asked.overrides) == _homeless(info.overrides) else asked.overrides
    if study.rules:
        now = study.rules.settings[-1]
        usual = default_margin(info.metric) if asked.margin is None else asked.margin
        for name, value in {"margin": usual, "alpha": asked.alpha, "rule": asked.rule or now.rule}.items():
            if getattr(now, name) != value:
                problems.append(f"study.yaml: {name} is {value!r}; the records were read with {getattr(now, name)!r}")
    for name, value in (wanted | {"axes": axes_of(asked)}).items():
        if getattr(info, name) != value:
            problems.append(f"study.yaml: {name} is {value!r}; the records were read with {getattr(info, name)!r}")
    if "--until-decided" in info.arguments:
        problems += _check_first_seeds(study, asked)
    elif "--seeds" not in info.arguments and info.seeds != asked.seeds:
        problems.append(f"study.yaml: seeds are {list(asked.seeds)}; the records have {list(info.seeds)}")
    rows = set(row_names(asked))
    rows -= {row for row in rows if any(f"row '{row}' is the same" in sentence for sentence in info.dropped)}
    if set(info.rows) != rows:
        problems.append(f"study.yaml: rows are {sorted(rows)}; the records have {sorted(info.rows)}")
    return problems


def _check_first_seeds(study: StudyRecords, asked: StudyFile) -> list[str]:
    """Whether each row of a study that ran until it was decided has the first seeds of the study, with none left out."""
    problems = []
    for row in study.info.rows:
        found = tuple(run.seed for run in study.runs if run.row == row)
        if found != first_seeds(asked, len(found)):
            problems.append(
                f"study.yaml: the first {len(found)} seeds are {list(first_seeds(asked, len(found)))}; row '{row}' "
                f"has {list(found)}"
            )
    if study.rules and study.rules.settings[-1].rule != "anytime":
        problems.append(
            "--until-decided: the records were read with rule 'fixed', which is for a number of seeds set beforehand"
        )
    return problems


def check_record(record: Record) -> list[str]:
    """The contradictions within a record: of hash and config, and of test accuracy and the images that it got right."""
    problems = []
    strange = strange_options(record.config, record.identity, record.data["digest"])
    if strange or hash_identity(record.identity) != record.hash:
        fields = f" ({', '.join(strange[:3])})" if strange else ""
        problems.append(f"its config, identity and hash do not belong together{fields}")
    if record.test_correct is not None and "test/acc" in record.metrics:
        correct = unpack_bits(record.test_correct, record.data["images"]["test"])
        if abs(float(np.mean(correct)) - record.metrics["test/acc"]) > 1e-6:
            problems.append(
                f"test/acc is {record.metrics['test/acc']}, but {int(correct.sum())} of {len(correct)} images were right"
            )
    return problems + _check_classes(record)


def _check_classes(record: Record) -> list[str]:
    """The contradictions between accuracy by class, balanced accuracy and accuracy on test, where a record has them."""
    counts, metrics = record.data.get("class_counts", {}).get("test", []), record.metrics
    if "test/balanced_acc" not in metrics:
        return []
    shown = {name: count for name, count in zip(record.data["classes"], counts, strict=True) if count}
    by_class = {name: metrics.get(f"test/class_acc/{name}", math.nan) for name in shown}
    expected = {
        "test/balanced_acc": sum(by_class.values()) / len(shown),
        "test/acc": sum(by_class[name] * count for name, count in shown.items()) / sum(shown.values()),
    }
    return [
        f"{name} is {metrics[name]}, but its classes give {value:.7g}"
        for name, value in expected.items()
        if not abs(metrics[name] - value) <= 1e-5
    ]


def _homeless(overrides: Sequence[str]) -> list[str]:
    """Overrides as records have them, which name nobody's home."""
    return without_any_home(list(overrides))


def _compared(text: str, suffix: str) -> str:
    """The part of a file that has to be equal: not how JSON is spelled, nor drawings, whose lines depend on matplotlib.

    Nor the days of commits, which records of earlier code do not hold: they come from the checkout's history, if it has them.
    """
    if suffix == ".html":
        return re.sub(r"<(svg|time)\b.*?</\1>", "", text, flags=re.DOTALL)
    if suffix == ".json":
        try:
            return json.dumps(json.loads(text), sort_keys=True)
        except json.JSONDecodeError:
            return text
    return text


def _first_difference(found: str, expected: str) -> str:
    for number, (mine, other) in enumerate(zip(found.splitlines(), expected.splitlines(), strict=False), start=1):
        if mine != other:
            at = next((k for k, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other)))
            start = max(0, at - 30)
            return f": line {number} has …{mine[start : at + 30]!r}, not …{other[start : at + 30]!r}"
    return ": it is longer or shorter"
