"""A methods section that a paper can take over, made from a study's records alone: methods.md, methods.tex and methods.bib.

It says what was done and not what came out. What no record says is left out; what is not the same in all rows is said row by
row.
"""

import math
from collections.abc import Sequence

from necklace.record import Record
from necklace.results.methods_recipe import data_sentences, model_sentences, said, training_sentences
from necklace.results.prose import Cite, Code, Paragraph, Part, Sentence, bibtex_of, latex_of, markdown_of
from necklace.results.recipe import at, commits, records
from necklace.results.results import Results, Row
from necklace.results.rulings import resolution
from necklace.results.stats import seeds_needed
from necklace.results.streams import streams_sentences
from necklace.study.metrics import TASK_METRICS

# Metrics in words.
METRICS = {
    "test/acc": "accuracy on the test images",
    "test/balanced_acc": "balanced accuracy, the mean of the accuracies of the classes, on the test images",
    "test/map": "mean average precision over the classes, on the test images",
    "test/map07": "mean of the 11-point average precisions of the classes, on the test images",
    "test/box_map": "mean average precision of boxes (the mean over classes and over IoU thresholds from 0.50 to 0.95, as COCO "
    "defines it), on the test images",
    "test/box_map50": "mean average precision of boxes at an IoU of 0.50, on the test images",
    "test/box_map75": "mean average precision of boxes at an IoU of 0.75, on the test images",
}
VERSIONS = {"python": "Python", "torchvision": "torchvision", "timm": "timm"}
CITED = {
    "torch": ("PyTorch", "paszke2019pytorch"),
    "pytorch-lightning": ("PyTorch Lightning", "falcon2019lightning"),
    "hydra-core": ("Hydra", "yadan2019hydra"),
}
FEW = 8  # so many seeds are listed


def methods_files(results: Results) -> dict[str, str]:
    """The methods section of a study, file name to content.

    Args:
        results: The results of a study.
    """
    paragraphs = methods(results)
    return {
        "methods.md": markdown_of(f"Methods of {results.study.name}", paragraphs),
        "methods.tex": latex_of(paragraphs),
        "methods.bib": bibtex_of(paragraphs),
    }


def methods(results: Results) -> list[Paragraph]:
    """The methods section as paragraphs; those without a sentence are left out."""
    found = [
        ("Data", data_sentences(results)),
        ("Models", model_sentences(results)),
        ("Training", training_sentences(results)),
        ("Seeds", _seeds(results)),
        ("Selection and test", _selection(results)),
        ("Statistics", _statistics(results)),
        ("Hardware and software", _machine(results)),
        ("Reproduction", _commands(results)),
    ]
    return [(heading, sentences) for heading, sentences in found if sentences]


def _seeds(results: Results) -> list[Sentence]:
    done = [row.summary.n for row in results.rows if row.summary]
    every = [run for row in results.rows for run in row.runs]
    if not done:
        return []
    seeds = sorted({run.seed for run in every})
    listed = ", ".join(map(str, seeds)) if len(seeds) <= FEW else f"{len(seeds)} seeds from {seeds[0]} to {seeds[-1]}"
    count = f"{min(done)} to {max(done)} runs" if min(done) < max(done) else f"{max(done)} run{'s' * (max(done) > 1)}"
    sentences: list[Sentence] = [[f"Each row has {count}, one for each seed ({listed})."]]
    missing = sum(run.record is None for run in every)
    if missing:
        words = "has not finished and counts" if missing == 1 else "have not finished and count"
        sentences.append([f"Of {len(every)} runs, {missing} {words} for nothing here."])
    sentences += streams_sentences(results.rows)
    axes = results.study.axes
    if axes is not None and all(axis.partition(".")[0] == "neck" for axis in axes) and len(results.rows) > 1:
        sentences.append(
            ["Runs with one seed start from the same weights of the backbone and see the same batches, whatever their neck."]
        )
    return sentences


def _selection(results: Results) -> list[Sentence]:
    every = records(results)
    monitor = said(results, _monitor)
    if not every:
        return []
    by = ["the highest validation metric ", *monitor] if monitor else ["the best validation metric"]
    sentences: list[Sentence] = [
        ["Of each run, the weights of the epoch with ", *by, " were kept (of several such epochs, the one with the lowest ",
         "validation loss)."]
    ]  # fmt: skip
    if all("test" in record.data.get("images", {}) for record in every):
        sizes = sorted({side for row in results.rows for side in row.by_size})
        again = f", and once more at each of {', '.join(map(str, sizes))} pixels" if sizes else ""
        sentences.append([f"The test images played no part in this: they were evaluated once, with these weights{again}."])
    if any(record.config.get("mirror") for record in every):
        mirror = said(results, lambda record: "yes" if record.config.get("mirror") else "", "no")
        which: list[Part] = [] if len(mirror) == 1 else [" (", *mirror, ")"]
        sentences.append(["Evaluation averages the logits of an image and of its mirror image", *which, "."])
    if any(record.config.get("shift") for record in every):
        shift = said(results, lambda record: f"{pixels} px" if (pixels := record.config.get("shift")) else "", "not")
        sides = "up and to the left, and down and to the right"
        sentences.append(
            ["In evaluation, half of the weight is on an image, the other half on it shifted ", sides, " (", *shift, ")."]
        )
    return sentences


def _monitor(record: Record) -> str:
    task = record.config.get("task") or {}
    if task.get("monitor"):
        return str(task["monitor"])
    balanced = task.get("class_weights") is not None or at(record.config, "data", "sampler") == "balanced"
    known = {name.rpartition(".")[2]: metrics[0][0] for name, metrics in TASK_METRICS.items()}
    usual = known.get(str(task.get("_target_", "")).rpartition(".")[2], "")
    return "val/balanced_acc" if balanced and usual == "test/acc" else usual.replace("test/", "val/")


def _statistics(results: Results) -> list[Sentence]:
    info, rows = results.study, results.rows
    words = METRICS.get(info.metric)
    metric: list[Part] = [words] if words else ["the metric ", Code(info.metric)]
    if words and "COCO" in words:
        metric.append(Cite("lin2014microsoft"))
    sentences: list[Sentence] = [["We report mean and standard deviation over seeds of the ", *metric, "."]]
    compared = [row for row in rows if row.difference is not None]
    if info.baseline is None or not compared:
        return sentences
    sentences.append(
        ["Each row is compared with ", Code(info.baseline), " seed by seed, since what two runs with one seed have in common ",
         "cancels in their difference", Cite("bouthillier2021accounting"), "."]
    )  # fmt: skip
    sentences += _rule(results) or _fixed_rule(compared, len(rows) - 1)
    if any(row.difference and row.difference.bca for row in rows):
        sentences.append(["With 20 seeds or more, there is also a BCa bootstrap interval of the mean, of 10,000 resamples."])
    if any(row.images for row in rows):
        sentences.append(
            ["The interval over test images is a 95 % percentile bootstrap of these images for these trained weights; it ",
             "says nothing of other seeds and is not corrected for the number of rows."]
        )  # fmt: skip
    if any(row.control for row in rows):
        sentences.append(["Rows with a control of their size are compared with it as well, paired by seed, without a p value."])
    return sentences


def _fixed_rule(compared: Sequence[Row], rows: int) -> list[Sentence]:
    """How a study with a fixed number of seeds decides."""
    most = max(row.difference.n for row in compared if row.difference)
    if most < 2:
        return [["With a single seed, differences have no interval and no p value."]]
    needed = seeds_needed(max(1, rows))
    many = f"corrected over {rows} comparisons by Holm's method" if rows > 1 else "of one comparison"
    found: list[Sentence] = [
        ["Differences come with the 95 % t interval of their mean, which takes them to be normally distributed."],
        [f"p values are those of two-sided paired t tests, {many}", *([Cite("holm1979simple")] if rows > 1 else []), "."],
    ]
    can = f"; {most} seeds cannot show it" if most < needed else ""
    found.append(
        ["A difference is called significant only if its p is below 0.05 and an exact sign-flip test of so many seeds could ",
         f"reach 0.05 over all of these comparisons, which takes {needed} seeds{can}."]
    )  # fmt: skip
    return found


def _rule(results: Results) -> list[Sentence]:
    """How verdicts were made, where the results have a rule for them."""
    setting = results.setting
    if setting is None:
        return []
    margin = f"{setting.margin:g} point{'s' * (setting.margin != 1)}"
    alpha, anytime = f"{setting.alpha:g}", setting.rule == "anytime"
    sentences: list[Sentence] = []
    if anytime:
        sentences.append(
            ["Seeds were added one after another while the results were looked at; the intervals are confidence ",
             "sequences of the paired mean difference, which hold at every number of seeds at ",
             "once", Cite("wang2023anytime"), "."]
        )  # fmt: skip
    else:
        sentences += _fixed_rule([row for row in results.rows if row.difference], len(results.rows) - 1)
    kind = "these confidence sequences" if anytime else "t intervals of the same kind"
    sentences += [
        [f"Verdicts have a rule of their own, by {kind}, each at the level of its comparison. A row is equal within the ",
         f"margin where the whole interval lies within {margin} of 0; else better or worse where it leaves out 0; and ",
         "undecided otherwise."],
        [f"The levels of all comparisons that the study ever made, {results.comparisons} in all, add up to at most {alpha} ",
         f"(Bonferroni). The rows here account for {_comparisons(results)}. Of m comparisons known from the start, each has ",
         f"the level {alpha} / (m + 1); what is left is for those that come later."],
        [f"So the probability that any verdict of the study is wrong is at most {alpha} if the differences of the seeds are ",
         f"normally distributed{'' if anytime else ' and the number of seeds does not depend on the results'}."],
    ]  # fmt: skip
    if setting.records:
        runs = f"{setting.records} run{'s' * (setting.records > 1)} of the study had"
        sentences.append([f"Rule, margin and level were set after {runs} finished, not before the first."])
    if floor := resolution(records(results), results.study.metric):
        sentences.append(
            ["For these intervals, the standard deviation of the differences is taken to be at least what one test image ",
             f"counts, {floor:.2g} points."]
        )  # fmt: skip
    verdicts = [found for row in results.rows for found in (row.verdict, row.control and row.control.verdict) if found]
    if any(found.one_computation for found in verdicts):
        sentences.append(["Rows that ended in the same weights, bit for bit, on all of several seeds are equal."])
    return sentences


def _comparisons(results: Results) -> str:
    """What the rows of the table are compared with, in numbers: each with the baseline, and with a control that it may have."""
    others = [row.name for row in results.rows if row.name != results.study.baseline]
    sized = sum(name not in results.study.controls for name in others) if results.study.controls else 0
    with_control = f", and {sized} with a control of the size, whether there is one or not" if sized else ""
    return f"{len(others) + sized} ({len(others)} with the baseline{with_control})" if sized else f"{len(others)}"


def _machine(results: Results) -> list[Sentence]:
    every = records(results)
    if not every:
        return []
    devices = dict.fromkeys(
        f"{r.device['name']} ({r.device['kind']}, {r.device['threads']} CPU thread{'s' * (r.device['threads'] != 1)})"
        for r in every
        if r.device
    )
    hours = math.fsum(record.wall_seconds for record in every) / 3600
    took = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    sentences: list[Sentence] = []
    if devices:
        sentences.append([f"The {len(every)} runs took {took} in all, added up over runs, on ", "; ".join(devices), "."])
    versions = [(name, sorted({r.versions[key] for r in every if key in r.versions})) for key, name in VERSIONS.items()]
    software: list[Part] = [", ".join(f"{name} {' and '.join(found)}" for name, found in versions if found)]
    for key, (name, cite) in CITED.items():
        if found := sorted({record.versions[key] for record in every if key in record.versions}):
            software += [f", {name} {' and '.join(found)}", Cite(cite)]
    if software != [""]:
        sentences.append(["Software: ", *software, "."])
    if any("wandb" in str(key) for record in every for key in (record.config.get("logger") or {})):
        sentences.append(["Runs were logged with Weights & Biases", Cite("biewald2020wandb"), "."])
    made = [f"{sha[:10]}{' (with changes that were not committed)' if dirty else ''}" for sha, _, dirty in commits(results)]
    if made:
        start = f"The runs were trained by necklace, at commit{'s' * (len(made) > 1)} "
        sentences.append([start, " and ".join(made), "; each record holds a digest of every module that trained its run."])
    return sentences


def _commands(results: Results) -> list[Sentence]:
    ways = (
        ("--verify", "makes tables, figures and this text again from the records and compares"),
        ("--reproduce", "trains as many runs again as it says, drawn at random, and compares with their records"),
    )
    parts: list[Part] = []
    for number, command in enumerate(results.commands):
        does = next(
            (words for option, words in ways if option in command.split()), "trains what is missing and writes all files"
        )
        parts += ["; " if number else "", Code(command), f" {does}"]
    return [[*parts, "."]] if parts else []
