"""A study's saved workspace in W&B, made from its plan; it answers the questions that report.html answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from torch import nn
from wandb_workspaces.expr import And

from necklace.build import built
from necklace.diagnostics.focal import context_names, focal_layers
from necklace.diagnostics.knockout_sites import sites_of
from necklace.model import Model
from necklace.run.loggers import KNOCKOUT
from necklace.study.metrics import usual_metric
from necklace.study.plan import Plan
from necklace.tracking.wandb_logger import config_column, project_of

ROW = "JobType"  # where a run carries the name of its row
DIFFERENCES = {"differences": "Difference to the baseline", "controls": "Difference to the control of its own size"}
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


def knockout_metrics(model: Model) -> list[str]:
    """Names of what a run's knockout logs of the neck's levels and pools: the drop with one of them silenced."""
    return [f"{KNOCKOUT}/{site.name}/{context}/silenced" for site in sites_of(model)[0] for context in site.names]


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
    knockouts: dict[str, None] = {}
    pictures: dict[str, None] = {}
    for config in configs:
        model = built(config)[0]
        gates |= dict.fromkeys(gate_metrics(model))
        knockouts |= dict.fromkeys(knockout_metrics(model) if config["callbacks"]["knockout"] else [])
        pictures |= dict.fromkeys(picture_names(model, config))
    return ws.Workspace(
        entity=entity,
        project=project_of(plan.loggers, plan.name),
        name=plan.name,
        sections=_sections(plan.metric, sizes, list(gates), list(knockouts), list(pictures)),  # pyright: ignore[reportArgumentType]
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=max(10, len(plan.rows))),
        # A run that was taken up again, or that failed, would be in its row's average with a part of its history.
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric(ROW)],
            filters=And(ws.Metric("State").isin(["finished", "running"])),
            pinned_columns=columns(plan),
        ),
    )


def columns(plan: Plan) -> list[str]:
    """The columns of W&B's table of runs: what a study asks for, what it found, and what that costs."""
    choices = plan.runs[0].spec.choices
    axes = [config_column(axis, choices) for axis in (*plan.axes, "seed")]
    val = plan.metric.replace("test/", "val/")
    found = [f"summary:{name}" for name in (plan.metric, val, "best_epoch", "cost/params", "cost/macs", "cost/fit_seconds")]
    return ["run:displayName", *axes, *found]


def picture_names(model: Model, config: Mapping[str, Any]) -> list[str]:
    """Names of the pictures that a run of this config logs, where it draws any."""
    if not config["callbacks"]["pictures"]:
        return []
    layers = len(focal_layers(model))
    names = ["receptive_field", *(["gates"] if layers == 1 else [f"gates_{number}" for number in range(layers)])]
    if model.dense:
        names += ["detections", "precision_recall", "errors", "boxes_0"]
    elif usual_metric(config["task"]["_target_"]) == "test/acc":  # one label an image
        names.append("confusion")
    return [f"pictures/{name}" for name in [*names, *(["sizes"] if config["data"]["eval_sizes"] else [])]]


def gate_histograms(gates: Iterable[str]) -> list[str]:
    """Names of the histograms of signed gates, of the levels that have a share of the mass, which are those with gates."""
    return [name.removesuffix("mass") + "gate" for name in gates if name.endswith("/mass")]


def _sections(
    metric: str, sizes: Sequence[int], gates: Sequence[str], knockouts: Sequence[str], pictures: Sequence[str]
) -> list[ws.Section]:
    found = [bars(f"{metric}, of the epoch that val chose", [metric]), wr.WeavePanelSummaryTable(table_name="table")]
    differences = [
        *(wr.WeavePanelSummaryTable(table_name=name) for name in DIFFERENCES),
        *(media(title, [f"figures/{name}"]) for name, title in DIFFERENCES.items()),
    ]
    # Groups of runs and several metrics do not go into one plot that can be read: a plot for each level, row by row.
    by_size = [bars(f"{metric}, images of {size} pixels", [f"{metric}@{size}"]) for size in sizes]
    levels = {
        what: [
            curve(name.removeprefix("gates/").removesuffix(f"/{what}"), [name]) for name in gates if name.endswith(f"/{what}")
        ]
        for what in ("contribution_share", "mass")
    }
    histograms = [media(name.removeprefix("gates/").removesuffix("/gate"), [name]) for name in gate_histograms(gates)]
    costs: list[wr.BarPlot | wr.ScatterPlot] = [bars(title, [name]) for name, title in COSTS.items()]
    costs.append(
        wr.ScatterPlot(title=f"{metric} against parameters", x=wr.SummaryMetric("cost/params"), y=wr.SummaryMetric(metric))
    )
    sections = {
        "What was found": found,
        "Differences to the baseline and to the controls": differences,
        "Learning": learning(metric),
        "Accuracy by size": by_size,
        "Gates: each level's share of the contribution": levels["contribution_share"],
        "Gates: each level's share of the mass": levels["mass"],
        "Gates: histograms": histograms,
        "Knockout: the drop on val with one level or pool silenced": [
            bars(name.removeprefix(f"{KNOCKOUT}/").removesuffix("/silenced"), [name]) for name in knockouts
        ],
        "Pictures": [media(name.removeprefix("pictures/").replace("_", " "), [name]) for name in pictures],
        "Cost": costs,
    }
    settings = ws.SectionPanelSettings(x_axis="epoch")
    return [ws.Section(name, panels, is_open=True, panel_settings=settings) for name, panels in sections.items() if panels]


def learning(metric: str) -> list[wr.LinePlot]:
    """Learning curves of a study with this metric."""
    val = metric.replace("test/", "val/")
    return [curve(val, [val]), curve("val/loss", ["val/loss"]), curve("train/loss", ["train/loss"])]


def media(title: str, keys: list[str]) -> wr.MediaBrowser:
    """Pictures or histograms under these names, run by run."""
    return wr.MediaBrowser(title=title, media_keys=keys, num_columns=2)


def curve(title: str, metrics: list[Any]) -> wr.LinePlot:
    """Metrics by epoch, averaged over the seeds of a row."""
    return wr.LinePlot(title=title, x="epoch", y=metrics, groupby=ROW, groupby_aggfunc="mean", groupby_rangefunc="stddev")


def bars(title: str, metrics: list[Any]) -> wr.BarPlot:
    """The last values of metrics, averaged over the seeds of a row."""
    return wr.BarPlot(title=title, metrics=metrics, groupby=ROW, groupby_aggfunc="mean", groupby_rangefunc="stddev")
