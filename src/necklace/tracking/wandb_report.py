"""A study's answer as a W&B Report, made from its records: the table with its notes, the figures, the recipe."""

import re
from collections.abc import Iterator
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces.reports.v2.interface import Report, Runset

from necklace.results.figure_data import figure_data
from necklace.results.recipe import commits, recipe
from necklace.results.results import Results
from necklace.results.table import TableText, markdown, table_text
from necklace.spec import loggers_of
from necklace.tracking.wandb_logger import project_of
from necklace.tracking.wandb_workspace import COSTS, bars, learning, media

MOST_TITLE = 128  # characters that W&B takes for a title


def study_report(results: Results, entity: str) -> Report:
    """The report of a study; nothing is saved yet, and no server is asked.

    Args:
        results: What the study's records give. The W&B project is that of its first run with a record.
        entity: W&B user or team that it is for.
    """
    study = results.study
    record = next((run.record for row in results.rows for run in row.runs if run.record), None)
    return Report(
        project=project_of(loggers_of(record.config) if record else {}, study.name),
        entity=entity,
        title=study.name[:MOST_TITLE],
        description=study.question,
        blocks=list(_blocks(results, table_text(results))),
        width="fluid",
    )


def _blocks(results: Results, table: TableText) -> Iterator[Any]:
    yield wr.TableOfContents()
    yield wr.H1("Answer")
    yield wr.P(results.study.question)
    yield wr.MarkdownBlock(_without_heading(markdown(table, results.study.name)))
    figures = [media(name, [f"figures/{name}"]) for name in figure_data(results)]
    if figures:
        yield wr.H1("Figures")
        yield _grid(figures)
    yield wr.H1("Runs")
    yield _grid([*learning(results.study.metric), *(bars(title, [name]) for name, title in COSTS.items())])
    yield wr.H1("Recipe")
    lines: list[Any] = [f"{name}: {text}" for name, text in recipe(results)]
    lines += [
        f"code: commit {sha}{f' of {day}' if day else ''}{', with uncommitted changes' if dirty else ''}"
        for sha, day, dirty in commits(results)
    ]
    if results.hardware:
        lines.append(f"made on: {results.hardware}")
    yield wr.UnorderedList(lines)
    yield wr.H1("How to reproduce")
    yield wr.CodeBlock("\n".join(results.commands), language="markdown")  # of those that W&B knows, the plainest


def _grid(panels: list[Any]) -> wr.PanelGrid:
    """Panels over the runs of the report's own project; a run set that named it would have W&B ask the server for it."""
    return wr.PanelGrid(runsets=[Runset(name="runs")], panels=panels)


def _without_heading(text: str) -> str:
    return re.sub(r"\A# .*\n+", "", text)
