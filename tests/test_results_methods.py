"""The methods section: what it says against the records, and that nothing in a name is obeyed by LaTeX or Markdown."""

import re
from dataclasses import replace

import pytest

from necklace.results.analysis import analyse
from necklace.results.methods import methods, methods_files
from necklace.results.prose import BIBLIOGRAPHY, Cite, Code, Paragraph, bibtex_of, cited, latex_of, latex_text, markdown_of
from necklace.results.results import Results
from necklace.study.rules import Setting
from tests.synthetic import example, synthetic_run, synthetic_runs, synthetic_study


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
    assert "is at most 0.05 (Bonferroni)" in text
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
