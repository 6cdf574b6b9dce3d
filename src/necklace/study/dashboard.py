"""A study's saved workspace in W&B, from its plan: the questions that its report answers, for those who look there."""

from collections.abc import Mapping, Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn
from wandb_workspaces.expr import And

from necklace.gates import context_names, focal_layers
from necklace.loggers import project_name
from necklace.study.compose import Composer
from necklace.study.plan import Plan, built, composed

ROW = "JobType"  # where a run carries the name of its row
COSTS = {
    "cost/params": "parameters",
    "cost/macs": "multiply-adds for one image",
    "cost/images_per_s": "training images a second",
    "cost/fit_seconds": "seconds of training",
}


def gate_metrics(model: nn.Module) -> dict[str, list[str]]:
    """Focal layer to the names of its levels' share of the gates' mass, as a run logs them; nothing without such a layer."""
    gated = {name: layer for name, layer in focal_layers(model).items() if getattr(layer, "gating", True)}
    return {name: [f"gates/{name}/{context}/mass" for context in context_names(layer)] for name, layer in gated.items()}


def workspace(plan: Plan, entity: str) -> ws.Workspace:
    """The workspace of a study: seeds are averaged within rows, with a band of one standard deviation.

    Args:
        plan: The study; Hydra has to be initialised with the configs.
        entity: W&B user or team that it is for.

    Returns:
        The workspace, of which nothing is saved yet.
    """
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    first = {cell.row: cell for cell in reversed(plan.cells)}
    configs = [composed(composer, first[row].overrides)[0] for row in plan.rows]
    sizes = OmegaConf.to_container(configs[0].data.eval_sizes) or []
    gates: dict[str, dict[str, None]] = {}
    for config in configs:
        for layer, names in gate_metrics(built(config)[0]).items():
            gates.setdefault(layer, {}).update(dict.fromkeys(names))
    return ws.Workspace(
        entity=entity,
        project=project_name(plan.study.name),
        name=plan.study.name,
        sections=_sections(plan.study.metric, sizes, {layer: list(names) for layer, names in gates.items()}),  # pyright: ignore[reportArgumentType]
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=max(10, len(plan.rows))),
        # A run that was taken up again, or that failed, would be in its row's average with a part of its history.
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric(ROW)], filters=And(ws.Metric("State").isin(["finished", "running"]))
        ),
    )


def _sections(metric: str, sizes: Sequence[int], gates: Mapping[str, Sequence[str]]) -> list[ws.Section]:
    val = metric.replace("test/", "val/")
    curves = [_curve(val, [val]), _curve("val/loss", ["val/loss"]), _curve("train/loss", ["train/loss"])]
    found = [_bars(f"{metric}, of the epoch that val chose", [metric]), wr.WeavePanelSummaryTable(table_name="table")]
    # Groups of runs and several metrics do not go into one plot that can be read: a plot for each level, row by row.
    by_size = [_bars(f"{metric}, images of {size} pixels", [f"{metric}@{size}"]) for size in sizes]
    masses = [_curve(name.removeprefix("gates/"), [name]) for names in gates.values() for name in names]
    costs: list[wr.BarPlot | wr.ScatterPlot] = [_bars(title, [name]) for name, title in COSTS.items()]
    costs.append(
        wr.ScatterPlot(title=f"{metric} against parameters", x=wr.SummaryMetric("cost/params"), y=wr.SummaryMetric(metric))
    )
    sections = {
        "What was found": found,
        "Learning": curves,
        "Accuracy by size": by_size,
        "Gates: share of the mass of each level": masses,
        "Cost": costs,
    }
    settings = ws.SectionPanelSettings(x_axis="epoch")
    return [ws.Section(name, panels, is_open=True, panel_settings=settings) for name, panels in sections.items() if panels]


def _curve(title: str, metrics: list[Any]) -> wr.LinePlot:
    return wr.LinePlot(title=title, x="epoch", y=metrics, groupby=ROW, groupby_aggfunc="mean", groupby_rangefunc="stddev")


def _bars(title: str, metrics: list[Any]) -> wr.BarPlot:
    return wr.BarPlot(title=title, metrics=metrics, groupby=ROW, groupby_aggfunc="mean", groupby_rangefunc="stddev")
