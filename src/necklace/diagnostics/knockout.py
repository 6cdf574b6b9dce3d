"""What matters in a neck: its levels and pools are changed one at a time, and all but one, and val is looked at again.

The trained weights stay as they are, and so does all else: what a run trained and tested is not touched. The backbone is not
changed, so its maps are computed once and kept, as far as there is room for them; each change runs neck and head alone. Images
of one size go together: a mean and a partner to be shuffled with are of the same size.

`knockout.json` in the run's folder holds what was found. See `knockout_sites` for the changes.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from necklace.atomic import write_whole
from necklace.boxes.bootstrap import Measured, drops
from necklace.data.datamodule import Batch, Batches, DataModule
from necklace.data.sizes import Step
from necklace.diagnostics.focal import focal_layers
from necklace.diagnostics.knockout_metrics import Outcome, outcome_of, value_of
from necklace.diagnostics.knockout_sites import STREAM, Change, Site, Switch, sites_of
from necklace.heads import Dense
from necklace.inference.trained_run import open_run
from necklace.model import Model
from necklace.precision import autocast
from necklace.record import Record
from necklace.seeding import numpy_generator

FILE = "knockout.json"
RESAMPLES = 2000
_IMAGES = 2  # of the stream, for the resamples
# Bytes of the backbone's maps that are kept; what is beyond is computed once more.
ROOM = 2**29


@dataclass(frozen=True)
class Knockout:
    """What changing a model's neck does on val.

    Attributes:
        base: What the model is worth as it is; None without any layer.
        changed: What it is worth with each change.
        sites: The layers.
        alone: Images of val that are the only one of their size: for these a mean and another image's gates are their own.
        notes: Sentences on what could not be changed.
    """

    base: Measured | None
    changed: dict[Change, Measured]
    sites: list[Site]
    alone: int
    notes: list[str]


def knock_out(model: Model, data: DataModule, metric: str, seed: int, device: torch.device, precision: Any = None) -> Knockout:
    """Change each term of each layer of a model's neck that joins several, on all of val.

    Args:
        model: With the weights to be asked; it is put in evaluation mode and on the device.
        data: Of no trainer.
        metric: Such as `val/acc`.
        seed: The run's seed, of whose stream `knockout` is drawn what is shuffled.
        device: Where to compute.
        precision: The run's `trainer.precision`.

    Raises:
        ValueError: The metric is not known here.
    """
    outcome = outcome_of(metric, data.splits["val"], len(data.classes))
    model.eval().to(device)
    sites, notes = sites_of(model)
    base, changed = outcome(), dict[Change, Outcome]()
    alone = 0
    with torch.inference_mode(), autocast(precision, device):
        for size, batches in _by_size(data) if sites else ():
            order = torch.cat([batches.indices(number) for number in range(len(batches))])
            alone += len(order) == 1
            switch = Switch(sites, seed, order, size)
            with switch.hooked():
                _look(model, switch, batches, device, {None: base})
                sites = [site for site in sites if site.name not in switch.unfit]
                notes += switch.unfit.values()
                changed |= {change: outcome() for change in changes_of(sites) if change not in changed}
                current: dict[Change | None, Outcome] = {change: changed[change] for change in changes_of(sites)}
                _look(model, switch, batches, device, current)
    left = {site.name for site in sites}
    found = {change: each.measured() for change, each in changed.items() if change.site in left}
    return Knockout(base.measured() if sites else None, found, sites, alone, notes)


def changes_of(sites: Sequence[Site]) -> list[Change]:
    """Every change of one term, and of all but one; those that are the same are there once."""
    found: dict[Change, None] = {}
    for site in sites:
        everything = frozenset(range(len(site.names)))
        for kind in site.changes:
            for hit in [frozenset([place]) for place in everything] + [everything - {place} for place in everything]:
                if hit:
                    found[Change(site.name, kind, hit)] = None
    return list(found)


class _OneSize:
    """The batches of val of one size, and the backbone's maps of them, as far as there is room.

    Args:
        data: The data.
        steps: Their plan.
        loader: Of all of val.
        room: Bytes for maps.
    """

    def __init__(self, data: DataModule, steps: Sequence[Step], loader: Batches, room: int) -> None:
        self._data, self._steps, self._loader, self._room = data, steps, loader, room
        self._kept: dict[int, tuple[Batch, list[Any]]] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def indices(self, number: int) -> Tensor:
        """The places in val of a batch's images."""
        return self._steps[number].indices

    def size(self, number: int) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._steps[number].size

    def get(self, number: int, model: Model, device: torch.device) -> tuple[Batch, list[Any]]:
        """A batch, without its images where it comes again, and the backbone's maps of it, for each view."""
        if number in self._kept:
            return self._kept[number]
        loader = Batches(lambda: (0, [self._steps[number]]), self._loader.images, 0)
        batch = self._data.prepare(next(iter(loader)), augment=False)
        batch = batch._replace(images=batch.images.to(device), labels=move_data_to_device(batch.labels, device))
        views = _views(model, batch.images)
        self._room -= sum(x.numel() * x.element_size() for view in views for x in (view if model.dense else [view]))
        if self._room > 0:
            self._kept[number] = batch._replace(images=batch.images[:0]), views
        return batch, views


def _by_size(data: DataModule) -> Iterator[tuple[tuple[int, int], _OneSize]]:
    """The sizes at which val is seen, in the order of their first images, with the batches of each."""
    loader = data.eval_batches("val")
    groups: dict[tuple[int, int], list[Step]] = {}
    for step in loader.plan()[1]:
        groups.setdefault(step.size, []).append(step)
    for size, steps in groups.items():
        yield size, _OneSize(data, steps, loader, ROOM)


def _look(
    model: Model, switch: Switch, batches: _OneSize, device: torch.device, outcomes: Mapping[Change | None, Outcome]
) -> None:
    """Run neck and head on all images of a size with each change; None is the model as it is."""
    first = 0
    for number in range(len(batches)):
        batch, views = batches.get(number, model, device)
        size = batches.size(number)
        switch.batch(torch.arange(first, first + len(batch.indices)))
        first += len(batch.indices)
        for change, outcome in outcomes.items():
            outputs = []
            for view, maps in enumerate(views):
                switch.begin(view, change)
                outputs.append(_read_out(model, maps))
                switch.end()
            outcome.add(_in_full(outputs[0] if model.dense else model.averaged(outputs)), batch, size)


def _views(model: Model, images: Tensor) -> list[Any]:
    """The backbone's maps, as `Model.forward` takes them: of each of the images' views."""
    if model.dense:
        return [model.backbone.stages(images)]
    return [model.backbone(view) for view in model.views(images)]


def _read_out(model: Model, maps: Any) -> Any:
    """What neck and head make of the backbone's maps."""
    if model.dense:
        *finer, last = maps
        return model.head((*finer, model.neck(last)))
    return model.head(model.neck(maps))


def _in_full(output: Any) -> Any:
    """An output with scores in float32, as the task has it."""
    if isinstance(output, Dense):
        return output._replace(scores=output.scores.float())
    return output.float()


def knock_out_run(folder: Path, metric: str, trust: str | Path | None = None, own: bool = False) -> dict[str, Any]:
    """Ask a finished run what matters in its neck, and write `knockout.json` into its folder.

    Args:
        folder: As for `open_run`.
        metric: The metric of val that chose its weights, such as `val/acc`.
        trust: As for `open_run`.
        own: As for `open_run`.

    Returns:
        The content of the file: `run` and `weights_hash`; `metric`, its `value` with nothing changed, and the number of
        `images`; `layers`, each with `kind`, `contexts` and `share`, the contexts' shares of the contribution, where the record
        has them; `changes`, each with `layer`, `context`, `change`, `scope` (`one`: this context, `others`: all but it), the
        metric's `value`, its `drop`, and `low` and `high`, the drop's 95 % interval over images, null where it is not defined;
        `notes`. Without any layer that can be changed `layers` and `changes` are empty, and no file is written.

    Raises:
        OSError: As for `open_run`, or the folder cannot be written.
        ValueError: As for `open_run`, or the metric is not known here.
    """
    run = open_run(folder, trust, own)
    record = run.record
    is_cuda = record.device["kind"] == "cuda" and torch.cuda.is_available()
    precision = record.config["trainer"].get("precision")
    seed = int(record.config["seed"])
    model = run.models["after"]
    found = knock_out(model, run.data, metric, seed, torch.device("cuda" if is_cuda else "cpu"), precision)
    content = _content(found, record, metric, seed, model)
    if content["changes"]:
        write_whole(folder / FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return content


def _content(found: Knockout, record: Record, metric: str, seed: int, model: Model) -> dict[str, Any]:
    short, images = metric.removeprefix("val/"), record.data["images"]["val"]
    value = None if found.base is None else value_of(found.base, metric)
    changes: list[dict[str, Any]] = []
    if found.base is not None and value is not None and not math.isnan(value):
        values = {change: value_of(each, metric) for change, each in found.changed.items()}
        ends = drops(found.base, found.changed, short, numpy_generator(seed, STREAM, _IMAGES), RESAMPLES)
        for site in found.sites:
            everything = frozenset(range(len(site.names)))
            for place, context in enumerate(site.names):
                for scope, hit in (("one", frozenset([place])), ("others", everything - {place})):
                    for kind in site.changes if hit else ():
                        change = Change(site.name, kind, hit)
                        low, high = ends[change] or (None, None)
                        numbers = {"value": values[change], "drop": value - values[change], "low": low, "high": high}
                        about = {"layer": site.name, "context": context, "change": kind, "scope": scope}
                        changes.append(about | {name: _rounded(number) for name, number in numbers.items()})
    gates = (record.gates or {"layers": {}})["layers"]
    return {
        "run": record.name,
        "weights_hash": record.weights_hash,
        "metric": metric,
        "value": _rounded(value),
        "images": images,
        "layers": {
            site.name: {
                "kind": site.kind,
                "contexts": list(site.names),
                "share": [gates.get(site.name, {}).get(context, {}).get("contribution_share") for context in site.names],
            }
            for site in found.sites
        },
        "changes": changes,
        "notes": _notes(found, record, metric, value, model),
    }


def _notes(found: Knockout, record: Record, metric: str, value: float | None, model: Model) -> list[str]:
    notes = list(dict.fromkeys(found.notes))
    if not found.sites and not notes:
        notes.append("no focal layer, SPP or SPPF in the neck, so there is nothing to knock out")
    elsewhere = [name for name in focal_layers(model) if not f"{name}.".startswith("neck.")]
    if elsewhere:
        notes.append(f"{len(elsewhere)} focal layers outside the neck ({elsewhere[0]}, ...) are not knocked out")
    if found.alone and any("images" in site.changes or "mean" in site.changes for site in found.sites):
        notes.append(
            f"{found.alone} of the {record.data['images']['val']} images of val are the only one of their size: "
            "for these, the mean over images and another image's gates are their own"
        )
    recorded = record.metrics.get(metric)
    if value is not None and recorded is not None and abs(value - recorded) > 0.005:
        notes.append(f"with nothing changed, {metric} over all of val is {value:.4f} here, and {recorded:.4f} in the record")
    return notes


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.7g}")
