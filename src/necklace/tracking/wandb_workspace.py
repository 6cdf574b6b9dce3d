"""A study's saved workspace in W&B, made from its plan; it answers the questions that report.html answers."""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from torch import nn
from wandb_workspaces.expr import And

from necklace.build import built
from necklace.diagnostics.focal import context_names, focal_layers
from necklace.study.plan import Plan
from necklace.tracking.wandb_logger import project_name

ROW = "JobType"  # where a run carries the name of its row
COSTS = {
    "cost/params": "parameters",
    "cost/macs": "multiply-adds for one image",
    "cost/images_per_s": "training images a second",
    "cost/fit_seconds": "seconds of training",
}


def gate_metrics(model: nn.Module) -> list[str]:
    """Names of what a run logs of its focal layers' levels: shares of the contribution and, with gating, of the gates."""
    return [
        f"gates/{name}/{context}/{figure}"
        for figure in ("contribution_share", "mass")
        for name, layer in focal_layers(model).items()
        for context in context_names(layer)
        if figure != "mass" or getattr(layer, "gating", True)
    ]


def workspace(plan: Plan, entity: str) -> ws.Workspace:
    """The workspace of a study: seeds are averaged within rows, with a band of one standard deviation.

    Args:
        plan: The study.
        entity: W&B user or team that it is for.

    Returns:
        The workspace, of which nothing is saved yet.
    """
    first = {run.row: run for run in reversed(plan.runs)}
    configs = [first[row].spec.resolved for row in plan.rows]
    sizes = configs[0]["data"]["eval_sizes"] or []
    gates: dict[str, None] = {}
    for config in configs:
        gates |= dict.fromkeys(gate_metrics(built(config)[0]))
    return ws.Workspace(
        entity=entity,
        project=project_name(plan.name),
        name=plan.name,
        sections=_sections(plan.metric, sizes, list(gates)),  # pyright: ignore[reportArgumentType]
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=max(10, len(plan.rows))),
        # A run that was taken up again, or that failed, would be in its row's average with a part of its history.
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric(ROW)], filters=And(ws.Metric("State").isin(["finished", "running"]))
        ),
    )


def _sections(metric: str, sizes: Sequence[int], gates: Sequence[str]) -> list[ws.Section]:
    val = metric.replace("test/", "val/")
    curves = [_curve(val, [val]), _curve("val/loss", ["val/loss"]), _curve("train/loss", ["train/loss"])]
    found = [_bars(f"{metric}, of the epoch that val chose", [metric]), wr.WeavePanelSummaryTable(table_name="table")]
    # Groups of runs and several metrics do not go into one plot that can be read: a plot for each level, row by row.
    by_size = [_bars(f"{metric}, images of {size} pixels", [f"{metric}@{size}"]) for size in sizes]
    levels = {
        what: [
            _curve(name.removeprefix("gates/").removesuffix(f"/{what}"), [name]) for name in gates if name.endswith(f"/{what}")
        ]
        for what in ("contribution_share", "mass")
    }
    costs: list[wr.BarPlot | wr.ScatterPlot] = [_bars(title, [name]) for name, title in COSTS.items()]
    costs.append(
        wr.ScatterPlot(title=f"{metric} against parameters", x=wr.SummaryMetric("cost/params"), y=wr.SummaryMetric(metric))
    )
    sections = {
        "What was found": found,
        "Learning": curves,
        "Accuracy by size": by_size,
        "Gates: each level's share of the contribution": levels["contribution_share"],
        "Gates: each level's share of the mass": levels["mass"],
        "Cost": costs,
    }
    settings = ws.SectionPanelSettings(x_axis="epoch")
    return [ws.Section(name, panels, is_open=True, panel_settings=settings) for name, panels in sections.items() if panels]


def _curve(title: str, metrics: list[Any]) -> wr.LinePlot:
    return wr.LinePlot(title=title, x="epoch", y=metrics, groupby=ROW, groupby_aggfunc="mean", groupby_rangefunc="stddev")


def _bars(title: str, metrics: list[Any]) -> wr.BarPlot:
    return wr.BarPlot(title=title, metrics=metrics, groupby=ROW, groupby_aggfunc="mean", groupby_rangefunc="stddev")
