"""Studies and results without training, for the tests of what reads them."""

# The runs made here have what may be missing elsewhere.
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from necklace.record import Record, pack_bits
from necklace.results.results import Control, Results, Row, RowCost, SamePair
from necklace.results.stats import Difference, Interval, Summary
from necklace.study.store import StudyInfo, StudyRecords, StudyRun
from tests.conftest import synthetic_record

ROWS = {
    "none": (["neck=none"], 0),
    "spp": (["neck=spp"], 10_432),
    "sppf": (["neck=sppf"], 10_432),
    "focal, focal_level=1": (["neck=focal", "neck.focal_level=1"], 14_000),
    "focal, focal_level=2": (["neck=focal", "neck.focal_level=2"], 19_011),
}
RATES = {"none": 0.3, "spp": 0.8, "sppf": 0.8, "focal, focal_level=1": 0.35, "focal, focal_level=2": 0.3}
SEEDS = (0, 1, 2)
COST = {"latency_ms": 1.5, "train_images_per_s": 1200.0, "peak_memory_mib": 800.2}
COST |= {"hash": "0", "code": "0", "device": "a processor", "threads": 2}


def synthetic_run(row: str, seed: int, lose: str | None = None, **fields: Any) -> StudyRun:
    """A run of one of `ROWS`; with `lose`, `failed` or `missing`, it has no record."""
    overrides, params = ROWS[row]
    rng = np.random.default_rng([seed, int(1000 * RATES[row]), row.startswith("focal")])  # spp and sppf: the same outcomes
    weights = {"weights_hash": hashlib.sha256(f"{row} {seed}".encode()).hexdigest(), "name": f"{row}_s{seed}"}
    record = synthetic_record(overrides, seed, rng.random(200) < RATES[row], params, **weights | fields)
    curve = {"epoch": [0.0, 1.0], "val/acc": [0.25, record.metrics["val/acc"]]}
    if lose:
        failure = "ValueError: the loss is nan" if lose == "failed" else None
        return StudyRun(row, seed, {}, f"{row}_s{seed}", lose, failure, None)
    return StudyRun(row, seed, {}, f"{row}_s{seed}", "done", None, record, curve)


def synthetic_runs(seeds: Sequence[int] = SEEDS) -> list[StudyRun]:
    """All runs of `ROWS`, row by row."""
    return [synthetic_run(row, seed) for row in ROWS for seed in seeds]


def synthetic_study(
    runs: Sequence[StudyRun] | None = None, costs: dict[str, dict[str, Any]] | None = None, **changes: Any
) -> StudyRecords:
    """A study of `ROWS`, with its runs, costs and fields of `StudyInfo` as given."""
    info: dict[str, Any] = {
        "name": "necks",
        "question": "Which neck joins what lies far apart?",
        "baseline": "none",
        "metric": "test/acc",
        "rows": tuple(ROWS),
        "seeds": SEEDS,
        "axes": ("neck", "neck.focal_level"),
        "same": ("spp", "sppf"),
        "tolerance": 0.02,
    }
    runs = synthetic_runs() if runs is None else runs
    return StudyRecords(StudyInfo(**info | changes), tuple(runs), {"none": COST} if costs is None else costs)


def lossy_study() -> StudyRecords:
    """A study in which one run failed and one is missing, with names that a format could trip over."""
    runs = synthetic_runs()
    runs[4] = synthetic_run("spp", 1, lose="failed")
    runs[14] = synthetic_run("focal, focal_level=2", 2, lose="missing")
    return synthetic_study(runs, dropped=("row 'a|b_50%' is the same as row 'none' and was dropped",))


def with_classes(run: StudyRun, counts: Sequence[int], right: Sequence[int], predicted: Sequence[int]) -> StudyRun:
    """The run with test images of classes a, b, c: how many there are, are rightly taken for it, and are taken for it."""
    names = ["a", "b", "c"][: len(counts)]
    by_class = {name: hits / count for name, hits, count in zip(names, right, counts, strict=True) if count}
    metrics = {f"test/class_acc/{name}": float(f"{value:.7g}") for name, value in by_class.items()}
    metrics["test/balanced_acc"] = float(f"{np.mean(list(by_class.values())):.7g}")
    metrics["test/acc"] = float(f"{sum(right) / sum(counts):.7g}")
    data = {"classes": names, "class_counts": {"test": list(counts)}, "predicted": {"test": list(predicted)}}
    data["images"] = {"train": 100, "test": sum(counts)}
    correct = pack_bits(np.arange(sum(counts)) < sum(right))
    record = replace(run.record, metrics=run.record.metrics | metrics, data=run.record.data | data, test_correct=correct)
    return replace(run, record=record)


def by_name(results: Results) -> dict[str, Row]:
    return {row.name: row for row in results.rows}


def empty_record(metrics: dict[str, float]) -> Record:
    """A record of these metrics and nothing else."""
    empty = {"str": "", "int": 0, "float": 0.0, "list": [], "dict": {}}
    values = {field.name: empty.get(str(getattr(field.type, "__name__", "")), {}) for field in dataclasses.fields(Record)}
    return Record(**values | {"metrics": metrics, "test_correct": None, "evidence": None, "git": None})


def example_row(
    name: str,
    accuracies: list[float | None],
    params: int = 1000,
    latency: float | None = 1.0,
    curves: Sequence[Sequence[float | None]] | None = None,
    sizes: dict[int, list[float]] | None = None,
    baseline: list[float | None] | None = None,
) -> Row:
    """A row from its accuracy by seed (None: no run), val accuracy by seed and epoch, and accuracy by side and seed."""
    runs = []
    for seed, accuracy in enumerate(accuracies):
        run = f"{name.replace(' ', '')}_s{seed}_0123abcd"
        if accuracy is None:
            runs.append(StudyRun(name, seed, {}, run, "missing", None, None))
            continue
        metrics = {"test/acc": accuracy} | {f"test/acc@{side}": values[seed] for side, values in (sizes or {}).items()}
        curve = {"epoch": [float(i) for i in range(len(curves[seed]))], "val/acc": list(curves[seed])} if curves else {}
        runs.append(StudyRun(name, seed, {}, run, "done", None, empty_record(metrics), curve))
    done = [value for value in accuracies if value is not None]
    finished = [seed for seed, value in enumerate(accuracies) if value is not None]
    difference = None
    if baseline:
        pairs = [a - b for a, b in zip(accuracies, baseline, strict=True) if a is not None and b is not None]
        if pairs:
            mean, interval = float(np.mean(pairs)), None
            if len(pairs) > 1:
                half = float(stats.t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / len(pairs) ** 0.5)
                interval = Interval(mean - half, mean + half)
            difference = Difference(len(pairs), mean, interval, None, None, float(np.mean(np.array(pairs) > 0)), None)
    return Row(
        name=name,
        runs=tuple(runs),
        summary=Summary(float(np.mean(done)), float(np.std(done, ddof=1)) if len(done) > 1 else None, len(done))
        if done
        else None,
        difference=difference,
        p_holm=None,
        images=None,
        control=None,
        by_size={side: float(np.mean([values[seed] for seed in finished])) for side, values in (sizes or {}).items() if done},
        cost=RowCost(params, 10 * params, params // 10, params, latency, 900.0, 210.0) if done else None,
        chosen={},
    )


def example_results(*rows: Row, noise: float | None = None, **info: Any) -> Results:
    """The results of these rows, with fields of `StudyInfo` as given."""
    study: dict[str, Any] = {
        "name": "example",
        "question": "Does a neck help?",
        "baseline": "none",
        "metric": "test/acc",
        "rows": tuple(row.name for row in rows),
        "seeds": tuple(range(max((len(row.runs) for row in rows), default=0))),
    }
    return Results(
        study=StudyInfo(**study | info),
        rows=rows,
        noise=noise,
        same=None,
        notes=(),
        hardware="2 cores",
        commands=("python ablate.py example",),
    )


def example() -> Results:
    """9 rows of 3 seeds as a study makes them: one failed run, one missing row, SPP equal to SPPF."""
    random = np.random.default_rng(0)
    wanted = {
        "none": (0.700, 700_000, 1.1),
        "conv": (0.712, 1_290_000, 1.3),
        "conv, match=params of sppf": (0.715, 860_000, 1.25),
        "spp": (0.733, 864_512, 1.5),
        "sppf": (0.733, 864_512, 1.42),
        "focal, focal_level=2, focal_window=3": (0.744, 902_144, 2.2),
        "focal, focal_level=2, focal_window=5": (0.741, 905_216, 2.3),
        "focal, focal_level=3, focal_window=5": (0.751, 921_000, 2.9),
        "focal_block, focal_level=2, focal_window=3": (0.749, 1_430_000, 3.6),
    }
    shared = random.normal(0, 0.006, 3)
    rows, first = [], None
    for number, (name, (level, params, latency)) in enumerate(wanted.items()):
        noise = np.zeros(3) if name == "sppf" else random.normal(0, 0.005, 3)
        accuracies: list[float | None] = [round(level + a + b, 4) for a, b in zip(shared, noise, strict=True)]
        if name == "spp":
            accuracies = [round(level + a, 4) for a in shared]
        if number == 7:
            accuracies[1] = None
        if number == 8:
            accuracies = [None] * 3
        epochs = np.arange(12)
        curves = [
            [float(v) for v in (a or 0) * (1 - 0.6 * np.exp(-epochs / 3)) + random.normal(0, 0.008, 12)] for a in accuracies
        ]
        sizes = {side: [(a or 0) - abs(side - 32) * 0.004 + 0.002 * number for a in accuracies] for side in (24, 32, 48, 64)}
        gain = level - 0.7
        images = Interval(gain - 0.011, gain + 0.012) if first and number != 8 else None
        row = replace(example_row(name, accuracies, params, latency, curves, sizes, first), images=images)
        if number == 7:
            failure = "RuntimeError: focal_window 9 is larger than the map of 7 x 7"
            row = replace(row, runs=(row.runs[0], replace(row.runs[1], state="failed", failure=failure), row.runs[2]))
        if name in ("spp", "sppf"):
            matched = rows[2]
            of_control = [run.record.metrics["test/acc"] for run in matched.runs if run.record]
            difference = example_row(name, accuracies, baseline=[*of_control]).difference
            assert difference is not None
            row = replace(row, control=Control(matched.name, difference))
        rows.append(row)
        first = first or accuracies
    question = "Which neck between a small CNN and its classifier helps, at which cost?"
    found = example_results(*rows, noise=rows[0].summary.sd if rows[0].summary else None, question=question)
    spp = SamePair("spp", "sppf", {0: 0.0, 1: 0.0, 2: 0.0}, Difference(3, 0.0, None, None, 1.0, 0.5, None))
    return replace(
        found,
        same=spp,
        notes=("Intervals over 3 seeds are wide: a difference below about 2 points cannot be told from none.",),
        hardware="2 cores of an AMD EPYC 9V74, Debian 12, PyTorch 2.9.1+cpu",
        commands=("python ablate.py example", "python ablate.py example --verify"),
    )


CONTEXTS = ("level1 k3", "level2 k5", "global")


def gates_of(
    shares: tuple[float, ...], masses: tuple[float | None, ...], layers: tuple[str, ...] = ("neck",)
) -> dict[str, Any]:
    """A record's gates, equal in all layers."""
    own = {
        context: {"contribution_share": share, "mass": mass}
        for context, share, mass in sorted(zip(CONTEXTS, shares, masses, strict=True))  # as JSON with sorted keys
    }
    return {"epoch": 3, "step": 40, "layers": dict.fromkeys(layers, own), "nonfinite": []}


def field_of(*radii: float | None, theoretical: int | None = 25) -> dict[str, Any]:
    """Pictures' numbers with radii of the backbone before and after, and with the neck before and after."""
    extents = [None if radius is None else {"radius": radius, "side": int(2 * radius), "extent": 48} for radius in radii]
    field: dict[str, Any] = {"images": 32, "size": [48, 48], "mass": 0.95, "theoretical": theoretical}
    field["backbone"] = dict(zip(("before", "after"), extents[:2], strict=True))
    if len(extents) > 2:
        field["backbone+neck"] = dict(zip(("before", "after"), extents[2:], strict=True))
    return {"receptive_field": field, "contributions": {}}


def with_pictures(
    row: Row, gates: Sequence[dict[str, Any] | None], pictures: Sequence[dict[str, Any]], thumbnails: bool = False
) -> Row:
    """A row with gates and pictures' numbers for each run; with thumbnails, of the first."""
    runs = []
    content = io.BytesIO()
    Image.new("RGB", (440, 200), (0, 114, 178)).save(content, "PNG")
    for run, own, shown in zip(row.runs, gates, pictures, strict=True):
        small = dict.fromkeys(("receptive_field", "gates", "confusion"), content.getvalue()) if thumbnails and not runs else {}
        record = run.record and replace(run.record, gates=own)
        runs.append(replace(run, record=record, pictures=shown if record else {}, thumbnails=small))
    return replace(row, runs=tuple(runs))


def illustrated() -> Results:
    """The example with gates and pictures, as a study with callbacks.pictures=true has them."""
    base, rows = example(), []
    for number, old in enumerate(base.rows):
        gates = [gates_of((0.5 - 0.01 * s, 0.3, 0.2 + 0.01 * s), (0.4, 0.35, 0.25)) if number > 4 else None for s in range(3)]
        fields = [field_of(9.5 + s, 8, *((20 + number, 21 + s) if number else ())) for s in range(3)]
        rows.append(with_pictures(old, gates, fields, thumbnails=number in (0, 5)))
    return replace(base, rows=tuple(rows))
