"""The methods section: what it says against the records, and that nothing in a name is obeyed by LaTeX or Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from necklace import schedules
from necklace.results.analysis import analyse
from necklace.results.methods import methods, methods_files
from necklace.results.methods_bibliography import BIBLIOGRAPHY
from necklace.results.methods_parts import GRADES, MODULATION, OPTIONS, PARTS, USUAL, class_of, options_of, parsed
from necklace.results.prose import Cite, Code, Paragraph, bibtex_of, cited, latex_of, latex_text, markdown_of
from necklace.results.results import Results
from necklace.study.rules import Setting
from necklace.study.store import StudyRun
from necklace.tasks import detection
from tests.conftest import synthetic_record
from tests.synthetic import example, synthetic_run, synthetic_runs, synthetic_study

CONFIGS = Path(__file__).parents[1] / "configs"


def said(results: Results) -> str:
    return methods_files(results)["methods.md"]


def test_it_says_what_the_records_say() -> None:
    results = analyse(synthetic_study())
    text = said(results)
    record = results.rows[0].runs[0].record
    assert record is not None
    images = record.data["images"]
    assert f"{images['test']:,} test images of {len(record.data['classes'])} classes" in text
    assert f"{record.epochs} epochs ({record.steps:,} steps) with {record.config['batch_size']} images in a step" in text
    assert f"AdamW (learning rate {record.config['optimizer']['lr']:g}, " in text
    assert "Each row has 3 runs, one for each seed (0, 1, 2)." in text
    assert "The seed decides the initial weights, the order of the images, and the augmentation (and dropout)." in text
    assert "corrected over 4 comparisons by Holm's method" in text
    assert "which takes 8 seeds; 3 seeds cannot show it." in text
    assert f"PyTorch {record.versions['torch']}" in text
    assert "highest validation metric val/acc" in text
    assert "not finished" not in text


def test_what_differs_is_said_by_row() -> None:
    runs = synthetic_runs()
    changed = []
    for run in runs:
        record = run.record
        assert record is not None
        augment = record.config["data"]["augment"] | {"cutout": 8 if run.row == "spp" else 0}
        config = record.config | {"data": record.config["data"] | {"augment": augment}}
        changed.append(replace(run, record=replace(record, config=config)))
    text = said(analyse(synthetic_study(changed)))
    assert re.search(r"squares of 8 pixels cut out[^;]* \(`spp`\)", text)
    assert re.search(r"\(`none`, `sppf`, `focal, focal_level=1`, `focal, focal_level=2`\)", text)


def test_what_evaluation_averages_is_said() -> None:
    def text(**options: Any) -> str:
        records = [(run, run.record) for run in synthetic_runs()]
        runs = [replace(run, record=replace(record, config=record.config | options)) for run, record in records if record]
        return said(analyse(synthetic_study(runs)))

    assert "In evaluation" not in text()
    assert "mirror image" not in text(shift=0)
    assert "averages the logits of an image and of its mirror image." in text(mirror=True)
    assert "half of the weight is on an image, the other half on it shifted up and to the left" in text(shift=2)
    assert "(2 px)" in text(mirror=True, shift=2)
    assert "mirror image." in text(mirror=True, shift=2)


def test_a_missing_run_is_said() -> None:
    runs = [
        synthetic_run(run.row, run.seed, "failed") if (run.row, run.seed) == ("spp", 1) else run for run in synthetic_runs()
    ]
    text = said(analyse(synthetic_study(runs)))
    assert "Of 15 runs, 1 have not finished" not in text
    assert "Of 15 runs, 1 has not finished and counts for nothing here." in text
    assert "Each row has 2 to 3 runs" in text


def test_only_what_was_used_is_cited() -> None:
    every = analyse(synthetic_study())
    assert {"yang2022focal", "he2014spp", "bouthillier2021accounting", "holm1979simple"} <= set(cited(methods(every)))
    assert "wang2023anytime" not in cited(methods(every))
    pooled = [run for run in synthetic_runs() if run.row in ("none", "spp")]
    keys = cited(methods(analyse(synthetic_study(pooled, rows=("none", "spp"), same=None))))
    assert "he2014spp" in keys
    assert not {"yang2022focal", "holm1979simple"} & set(keys)
    bibtex = methods_files(every)["methods.bib"]
    assert re.findall(r"^@\w+\{(\w+),$", bibtex, re.M) == cited(methods(every))
    assert set(re.findall(r"\\cite\{(\w+)\}", methods_files(every)["methods.tex"])) == set(cited(methods(every)))


@pytest.mark.parametrize(("rule", "cites"), [("anytime", True), ("fixed", False)])
def test_a_rule_for_verdicts_is_named(rule: str, cites: bool) -> None:
    results = analyse(synthetic_study())
    paragraphs = methods(replace(results, setting=Setting(rule, margin=0.5, alpha=0.05)))
    text = markdown_of("x", paragraphs)
    assert "lies within 0.5 points of 0" in text
    assert "add up to at most 0.05 (Bonferroni). The rows here account for 4." in text
    assert "taken to be at least what one test image counts, 0.5 points" in text  # of 200
    assert "not before the first" not in text
    late = markdown_of("x", methods(replace(results, setting=Setting(rule, margin=1, alpha=0.05, records=15))))
    assert "were set after 15 runs of the study had finished, not before the first" in late
    assert "lies within 1 point of 0" in late
    assert ("wang2023anytime" in cited(paragraphs)) is cites
    assert ("t interval" in text) is not cites


def test_a_study_of_hardly_any_records_has_no_empty_sentences() -> None:
    for text in (methods_files(example())[name] for name in ("methods.md", "methods.tex")):
        assert not re.search(r"\(\)|: \.|, ,|  \S| \.|None|nan\b", text), text


def balanced(text: str) -> bool:
    """Whether braces pair up, escaped ones apart."""
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0


NASTY = r"a_b %c #1 {x} $y$ ~z ^2 \input{/etc/passwd} <b> & `t` ![p](http://x) --" + '"quoted"'


def test_names_are_text_in_latex_and_markdown() -> None:
    paragraphs: list[Paragraph] = [("A & B", [["row ", Code(NASTY), " of ", NASTY, Cite("holm1979simple"), "."]])]
    tex = latex_of(paragraphs)
    assert balanced(tex)
    for command in re.findall(r"\\([a-zA-Z]+)", tex):
        assert command in {"paragraph", "texttt", "cite", "textbackslash", "textasciitilde", "textasciicircum", "textless",
                           "textgreater", "textquotesingle", "textquotedbl"}, command  # fmt: skip
    bare = re.sub(r"\\[&%$#_{}]|\\[a-zA-Z]+", "", tex).replace("~{\\cite", "")
    assert not re.search(r"[%$#_&^]", bare)
    text = markdown_of("t", paragraphs)
    assert "<b>" not in text.replace(f"`` {NASTY} ``", "").replace(f"``{NASTY}``", "")
    assert latex_text("--x", code=True) == "-{}-{}x"


def test_every_entry_is_whole() -> None:
    for key, (kind, fields) in BIBLIOGRAPHY.items():
        assert {"author", "title", "year"} <= fields.keys(), key
        assert fields["year"] in key
        assert kind == "misc" or {"booktitle", "journal"} & fields.keys()
    assert balanced(bibtex_of([("x", [[Cite(key) for key in BIBLIOGRAPHY]])]))


def study_of(rows: Mapping[str, Sequence[str]], **changes: Any) -> Results:
    """Results of a study of one run for each row, from the row's overrides."""
    runs = []
    for row, overrides in rows.items():
        record = synthetic_record(list(overrides), 0, np.arange(100) < 40, weights_hash="0" * 64, name=f"{row}_s0")
        runs.append(StudyRun(row, 0, {}, record.name, "done", None, record))
    info = {"rows": tuple(rows), "seeds": (0,), "baseline": next(iter(rows)), "same": None, "axes": None}
    return analyse(synthetic_study(runs, **info | changes))


NECKS = {
    "none": ["neck=none"],
    "sppf": ["neck=sppf"],
    "focal": ["neck=focal"],
    "normed": ["neck=focal", "neck.global_norm=batch"],
    "block": ["neck=focal_block", "neck.kernels=[3,7]"],
    "gc": ["neck=gc", "neck.reduction=8"],
    "attention": ["neck=attention"],
    "wide": ["neck=conv", "neck.width=79"],
    "wider": ["neck=conv", "neck.width=145"],
}


def sentence(text: str, start: str) -> str:
    """The text from `start` to the next neck."""
    return start + text.partition(start)[2].partition(" Neck of ")[0]


def test_each_neck_is_described_cited_and_told_with_its_options() -> None:
    results = study_of(NECKS)
    text = said(results)
    assert "[@he2014spp]" in sentence(text, "Neck of `sppf`: ")
    assert "(`kernel_size=5`, positions)" in sentence(text, "Neck of `sppf`: ")
    focal = sentence(text, "Neck of `focal`, `normed`: ")
    assert "(`focal_factor=2`; `focal_level=2`; `focal_window=3`)" in focal
    assert "; in `normed` with `global_norm=batch`, batch normalisation of the global context before its gate." in focal
    assert "gating" not in focal
    assert "global_scale" not in focal
    block = sentence(text, "Neck of `block`: ")
    assert "`kernels=[3,7]`" in block
    assert "`layerscale=0.0001`" in block
    assert "focal_level=" not in block  # which the list stands for
    assert "`reduction=8`" in sentence(text, "Neck of `gc`: ")
    assert "`heads=4`; `mlp_ratio=4`" in sentence(text, "Neck of `attention`: ")
    wide = sentence(text, "Neck of `wide`, `wider`: ")
    assert "in `wide` with `width=79`, channels between the two; in `wider` with `width=145`" in wide
    assert wide.count("channels between the two") == 1
    assert {"cao2019gcnet", "vaswani2017attention", "ioffe2015batch", "he2016deep", "loshchilov2019decoupled"} <= set(
        cited(methods(results))
    )
    assert text.count("In focal modulation, ") == 1
    assert "In focal modulation, " not in said(study_of({"none": ["neck=none"]}))
    assert balanced(methods_files(results)["methods.tex"])


def test_a_neck_of_somebody_else_is_told_with_all_options_and_no_words_of_ours() -> None:
    results = study_of({"none": ["neck=none"], "theirs": ["neck=focal"]})
    run = results.rows[1].runs[0]
    assert run.record
    neck = {"_target_": "theirs.SPP", "gating": True, "reduction": 4, "nothing": None}
    record = replace(run.record, config=run.record.config | {"neck": neck})
    changed = replace(results, rows=(results.rows[0], replace(results.rows[1], runs=(replace(run, record=record),))))
    assert "Neck of `theirs`: `theirs.SPP` (`gating=true`; `reduction=4`)." in said(changed)
    assert "he2014spp" not in cited(methods(changed))


def test_heads_losses_and_drawn_data_are_told() -> None:
    boxes = said(study_of({"none": ["task=detection", "data=context_boxes"]}))
    assert "stages [8,16,32]" in boxes
    assert "the coarsest, while the finer ones go to the head past it" in boxes
    assert "`depth=2`, convolutions before the scores, and before the distances" in boxes
    assert "`width=64`, channels)" in boxes
    assert "The loss is quality focal loss [@li2020generalized]" in boxes
    assert "whose colour is the class of every box" in boxes
    corner = ["data=context", "data.source.grade=transport", "head=corner", "head.side=10"]
    text = said(study_of({"none": corner, "hints": ["data=context", "data.source.grade=hints"]}))
    assert "Those of `none` are drawn" in text
    assert text.count("and the label is the marker's colour") == 1
    assert "`min_gap=26`" in text
    assert "The head `corner` (`none`) is the mean over the top left corner" in text
    assert "`side=10`, pixels of the image" in text
    assert "split off the training images, 10 % of each class (`none`)" in text  # hints has a val split of its own
    assert "The training images are not augmented." in text
    assert "minus (0.29, 0.29, 0.29) over (0.12, 0.12, 0.12)" in text


def test_sizes_and_optimizers_are_told() -> None:
    sizes = "data/sizes=multiscale", "data.sizes.sizes=[16,24,32]"
    text = said(study_of({"none": ["neck=none", *sizes]}))
    assert "each batch is resized to a side drawn from 16, 24, 32 pixels; evaluation at 40 pixels" in text
    text = said(study_of({"none": ["neck=none", *sizes, "data.sizes.per=epoch", "optimizer=muon"]}))
    assert "the images of an epoch are resized to one side, in turn 16, 24, 32 pixels; evaluation at 40 pixels" in text
    assert (
        "Muon (learning rate 0.03, weight decay 0.1, momentum 0.95, for AdamW the learning rate times 0.25, Nesterov)" in text
    )
    assert "biases, norms and depth-wise convolutions are left to AdamW" in text
    assert "Muon" not in said(study_of({"none": ["neck=none"]}))


def test_code_and_commands_are_told() -> None:
    results = study_of({"none": ["neck=none"]})
    run = results.rows[0].runs[0]
    assert run.record
    assert "at commit ffffffffff; each record holds" in said(results)
    record = replace(run.record, git={"sha": "a" * 40, "dirty": True}, train_images_left_out=24)
    text = said(replace(results, rows=(replace(results.rows[0], runs=(replace(run, record=record),)),)))
    assert "at commit aaaaaaaaaa (with changes that were not committed); each record holds" in text
    assert "images that fill no whole batch are left out" in text
    assert "images that fill no whole batch are left out" not in said(results)
    assert "`python ablate.py necks` trains what is missing" in text
    assert "`python ablate.py necks --reproduce 1` trains as many runs again as it says" in text


def test_what_is_said_of_our_classes_is_whole_and_as_they_are() -> None:
    for group in ("neck", "head", "backbone", "task", "schedule"):
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            node = yaml.safe_load(path.read_text())
            node = node.get("task", node)
            if "_target_" in node and path.stem != "constant":
                assert class_of(node), path
    focal, block = (yaml.safe_load((CONFIGS / f"neck/{name}.yaml").read_text()) for name in ("focal", "focal_block"))
    told = {option.partition("=")[0] for option in options_of(focal | block)} - {"defaults"}
    assert told == {"focal_window", "focal_level", "focal_factor", "mlp_ratio", "layerscale"}
    assert {name: value for name, value in (focal | block).items() if name in USUAL} == USUAL
    words = [*PARTS.values(), *GRADES.values(), MODULATION]
    assert {part.key for text in words for part in parsed(text) if isinstance(part, Cite)} <= BIBLIOGRAPHY.keys()
    assert all(key.partition(".")[0] in PARTS for key in OPTIONS if "." in key)


def test_numbers_in_words_are_those_of_the_code() -> None:
    assert f"plus {detection.BOX_WEIGHT:g} times the GIoU loss" in PARTS["Detection"]
    assert f"an IoU of {detection.OVERLAP:g}, and at most {detection.MOST} boxes" in PARTS["Detection"]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.9, 0.999))
    schedule = schedules.one_cycle(optimizer, 101, 10, 0.3)
    seen = []
    for _ in range(101):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0]))
        optimizer.step()
        schedule.step() if len(seen) < 101 else None
    rates, betas = zip(*seen, strict=True)
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[-1] < 1e-5
    assert (betas[0], min(betas), betas[-1]) == pytest.approx((0.95, 0.85, 0.95), abs=1e-4)
    quarter = 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - np.cos(np.pi * 10 / 29.3))
    assert rates[10] == pytest.approx(quarter, abs=2e-3)
