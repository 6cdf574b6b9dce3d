"""Seconds of planning a finished study and of writing its records, tables, figures and report, by its number of runs."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from hydra import initialize_config_dir

from necklace.cli.bench_machine import Machine
from necklace.cli.bench_processes import NECKLACE, timed, words_of, write_study
from necklace.cli.bench_report import Report
from necklace.cli.bench_studies import SHORT
from necklace.cli.train import CONFIGS
from necklace.record import Record, pack_bits, read_record
from necklace.results.analysis import analyse
from necklace.results.write import write_study as write_results
from necklace.seeding import torch_generator
from necklace.study.collect import Kept, collect
from necklace.study.plan import PlannedRun, make_plan
from necklace.study.status import StatusReader
from necklace.study.store import StudyRecords
from necklace.study.study_file import read_study

SMALL = {key: value for key, value in SHORT.items() if key != "data"} | {"epochs": 1}


def records(report: Report, counts: Sequence[int]) -> None:
    """Time plan and table of a study whose runs are all done, made from one real record.

    Args:
        report: Where the table goes.
        counts: Numbers of runs, each a multiple of 100.
    """
    machine, rows = Machine(), []
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(CONFIGS), version_base="1.3"):
        root = Path(scratch)
        real, curve = _train_one(root)
        for count in counts:
            planned, written = _timed(root, count, real, curve)
            rows.append([count, planned, written, planned + written, 1000 * (planned + written) / count])
    columns = {"runs": ",d", "plan s": ".2f", "records, tables, figures, report s": ".2f", "in all s": ".2f", "ms a run": ".2f"}
    report.write("a finished study's plan and table", columns, rows, machine)


def _train_one(root: Path) -> tuple[Record, str]:
    """Train a run in a process of its own; gives its record and learning curve."""
    timed([*NECKLACE, "train", *words_of(SMALL), "study=one"], root)
    (path,) = root.glob("outputs/one/*/record.json")
    return read_record(path), path.with_name("history.csv").read_text()


def _timed(root: Path, count: int, real: Record, curve: str) -> tuple[float, float]:
    """Seconds of the plan and of the table of a finished study of `count` runs."""
    grid = {"neck": "none", "optimizer.lr": [round(1e-3 * 1.01**k, 8) for k in range(count // 100)]}
    path = write_study(root, f"many{count}", 100, grid, SMALL)
    extra = [f"outputs={root}/outputs"]
    for run in make_plan(read_study(path), extra).runs:
        _write_twin(real, run, curve)
    started = time.perf_counter()
    plan = make_plan(read_study(path), extra)
    status = StatusReader(plan)
    status.all()
    planned = time.perf_counter()
    collected = StudyRecords(plan.info([], []), collect(plan, status, Kept(path.parent)), {})
    write_results(collected, analyse(collected), path.parent)
    return planned - started, time.perf_counter() - planned


def _write_twin(real: Record, run: PlannedRun, curve: str) -> None:
    """Write a record of the planned run with random outcomes."""
    generator = torch_generator(run.seed, run.row)
    correct = torch.rand(real.data["images"]["test"], generator=generator) < 0.5
    twin = replace(
        real,
        name=run.spec.name,
        hash=run.spec.hash,
        config=run.spec.resolved,
        identity=run.spec.identity,
        code=run.spec.code,
        metrics=real.metrics | {"test/acc": float(correct.float().mean())},
        test_correct=pack_bits(correct.numpy()),
        weights_hash=run.spec.hash,
    )
    folder = run.spec.root / run.spec.name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(asdict(twin)))
    (folder / "history.csv").write_text(curve)
