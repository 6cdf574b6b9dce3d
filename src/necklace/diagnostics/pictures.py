"""Pictures of one finished run: receptive fields, gates, confusion matrix or boxes, and accuracy by image size.

Everything is computed on the CPU from the files in the run's folder: the trained weights from its checkpoint, the initial ones
built again from its seed. The images are the same in all runs that share their data. The same run gives the same bytes.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from necklace.atomic import write_whole
from necklace.data.augment import normalise
from necklace.data.datamodule import DataModule
from necklace.data.images import ImageSet
from necklace.diagnostics.box_pictures import box_pictures
from necklace.diagnostics.focal import context_names, focal_layers, focal_parts
from necklace.diagnostics.plots import LayerMaps, draw_confusion, draw_gates, draw_receptive_fields, draw_sizes
from necklace.diagnostics.receptive_field import (
    MASS,
    Spread,
    effective_receptive_field,
    spread,
    theoretical_receptive_field,
)
from necklace.guard.links import check_no_link
from necklace.inference.trained_run import TrainedRun, open_run
from necklace.model import Model
from necklace.necks import NoNeck
from necklace.plotting import saved
from necklace.record import Record

# Validation images that the numbers are a mean over, and how many of them are drawn.
IMAGES = 32
SHOWN = 4


def draw_run(folder: Path, trust: str | Path | None = None, own: bool = False) -> list[str]:
    """Draw a finished run's pictures into its folder's `pictures/`, with their numbers in `pictures.json`.

    Args:
        folder: As for `open_run`.
        trust: Likewise.
        own: Likewise.

    Returns:
        Lines to print: the files and the main numbers in them.

    Raises:
        OSError: As for `open_run`, or the folder cannot be written.
        ValueError: As for `open_run`, or an activation is NaN or infinite.
    """
    run = open_run(folder, trust, own)
    notes = list(run.notes)
    val = run.data.splits["val"]
    chosen = val.select(spaced(len(val), IMAGES))
    figures: dict[str, Figure] = {}

    fields, weights = _receptive_fields(run, chosen)
    figures["receptive_field"] = draw_receptive_fields(weights, fields["theoretical"])

    inputs = [prepared(run.data, chosen.select([k])) for k in range(len(chosen))]
    shown = spaced(len(chosen), SHOWN)
    maps = {stage: layer_maps(model, [image for _, image in inputs], shown) for stage, model in run.models.items()}
    layers = {name: context_names(layer) for name, layer in focal_layers(run.models["after"]).items()}
    if not layers:
        notes.append("no focal layer in the model, so there are no gates to show")
    for number, (name, contexts) in enumerate(layers.items()):
        of_layer = {stage: found[name] for stage, found in maps.items()}
        title = "gates" if len(layers) == 1 else f"gates_{number}"
        figures[title] = draw_gates(name, contexts, [inputs[k][0] for k in shown], of_layer)

    confusion = found = None
    images: dict[str, bytes] = {}
    if run.models["after"].dense:
        boxes = box_pictures(run.models["after"], run.data)
        figures, images, found = figures | boxes.figures, boxes.images, boxes.numbers
    elif val.labels.ndim == 1:
        split = "test" if "test" in run.data.splits else "val"
        counts = confusion_matrix(run.models["after"], run.data, split)
        confusion = {"split": split, "classes": list(run.data.classes), "counts": counts.tolist()}
        figures["confusion"] = draw_confusion(counts, run.data.classes, split)
    else:
        notes.append("an image of this data may show several classes, so there is no confusion matrix")

    by_size = accuracy_by_size(run.record)
    if by_size["sides"]:
        figures["sizes"] = draw_sizes(**by_size)

    numbers = {
        "run": run.record.name,
        "weights_hash": run.record.weights_hash,
        "images": list(chosen.names),
        "receptive_field": fields,
        "contributions": {
            name: {"contexts": list(contexts)} | {stage: found[name].shares for stage, found in maps.items()}
            for name, contexts in layers.items()
        },
        "confusion": confusion,
        "boxes": found and {"classes": list(run.data.classes)} | found,
        "by_size": by_size,
        "pictures": [f"{name}.png" for name in figures],
        "notes": notes,
    }
    _write(folder / "pictures", figures, images, numbers)
    return _lines(folder, numbers)


def spaced(total: int, count: int) -> list[int]:
    """At most `count` of `total` places, evenly spaced: independent of the seed, and over all classes of a sorted split."""
    count = min(count, total)
    return [k * total // count for k in range(count)]


def prepared(data: DataModule, one: ImageSet) -> tuple[Tensor, Tensor]:
    """One image at the size at which the run evaluates it: uint8 [H, W, 3] and, normalised, float32 [1, 3, H, W]."""
    size = data.sizes.eval_steps(one.shapes, 1, 0, 1)[0].size
    pixels = one.resized(*size)
    return pixels[0], normalise(pixels, data.mean, data.std)


def layer_maps(model: Model, images: Sequence[Tensor], shown: Sequence[int]) -> dict[str, LayerMaps]:
    """Contributions, gates and modulators of every focal layer of a model over some images.

    Args:
        model: In evaluation mode.
        images: Normalised, each [1, 3, H, W].
        shown: Indices of the images whose maps are kept.

    Returns:
        By the layer's name in the model.

    Raises:
        ValueError: A gate or a context is NaN or infinite.
    """
    layers = focal_layers(model)
    inputs: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, arguments: inputs.update({name: arguments[0]})

    hooks = [layer.register_forward_pre_hook(catch(name)) for name, layer in layers.items()]
    norms = {name: torch.zeros(len(context_names(layer)), dtype=torch.double) for name, layer in layers.items()}
    kept: dict[str, LayerMaps] = {name: LayerMaps([], [], []) for name in layers}
    try:
        with torch.inference_mode():
            for number, image in enumerate(images if layers else []):
                # The image alone, and none of its other views.
                model.head(model.maps(image) if model.dense else model.neck(model.backbone(image)))
                for name, layer in layers.items():
                    parts = focal_parts(layer, inputs[name])
                    for level, context in enumerate(parts.contexts):
                        weighted = context if parts.gates is None else context * parts.gates[:, level : level + 1]
                        norm = float(weighted.double().norm(dim=1).mean())
                        if not norm < float("inf"):
                            raise ValueError(f"layer {name}, {context_names(layer)[level]}: gate or context is NaN or infinite")
                        norms[name][level] += norm
                    if number in shown:
                        kept[name].gates.extend([] if parts.gates is None else [parts.gates[0].clone()])
                        kept[name].modulators.append(parts.modulator[0].norm(dim=0))
    finally:
        for hook in hooks:
            hook.remove()
    for name, norm in norms.items():
        total = max(float(norm.sum()), torch.finfo(torch.double).tiny)
        kept[name].shares.extend(_rounded(float(value) / total) for value in norm)
    return kept


def confusion_matrix(model: Model, data: DataModule, split: Any) -> Tensor:
    """Count predicted classes (column) for each true class (row) over all images of a split: int64 [K, K]."""
    metric = MulticlassConfusionMatrix(len(data.classes))
    with torch.inference_mode():
        for batch in data.eval_batches(split):
            batch = data.prepare(batch, augment=False)
            metric.update(model(batch.images), batch.labels)
        return metric.compute()


def accuracy_by_size(record: Record) -> dict[str, Any]:
    """The test metric at each further side that the run evaluated: `metric`, `sides` in pixels, ascending, and `values`."""
    metric = next((name for name in ("test/acc", "test/map", "test/box_map") if name in record.metrics), "test/acc")
    sides = sorted(int(name.partition("@")[2]) for name in record.metrics if name.startswith(f"{metric}@"))
    return {"metric": metric, "sides": sides, "values": [record.metrics[f"{metric}@{side}"] for side in sides]}


def _receptive_fields(
    run: TrainedRun, chosen: ImageSet
) -> tuple[dict[str, Any], dict[tuple[str, str], tuple[Tensor, Spread | None]]]:
    """The numbers for the file, and by part and stage the weights [H, W] with their spread."""
    size = run.data.size
    images = normalise(chosen.resized(*size), run.data.mean, run.data.std)
    found: dict[tuple[str, str], tuple[Tensor, Spread | None]] = {}
    for stage, model in run.models.items():
        parts: dict[str, list[nn.Module]] = {"backbone": [model.backbone]}
        if not isinstance(model.neck, NoNeck):
            parts["backbone+neck"] = [model.backbone, model.neck]
        for part, networks in parts.items():
            weights = effective_receptive_field(networks, images)
            found[part, stage] = weights, spread(weights)
    numbers: dict[str, Any] = {
        "images": len(images),
        "size": list(size),
        "mass": MASS,
        "theoretical": theoretical_receptive_field(run.models["after"].backbone),
    }
    for (part, stage), (_, measured) in found.items():
        content = measured and {"radius": measured.radius, "side": measured.side, "extent": measured.extent}
        numbers.setdefault(part, {})[stage] = content
    return numbers, found


def _write(folder: Path, figures: dict[str, Figure], images: dict[str, bytes], numbers: dict[str, Any]) -> None:
    """Write the pictures and the images in them, then the numbers, and remove earlier files that are not among them."""
    files: dict[str, str | bytes] = {f"{name}.png": saved(figure, name, "png") for name, figure in figures.items()}
    # Escaped, as a class name from a folder may hold characters that no encoding can write.
    files |= images | {"pictures.json": json.dumps(numbers, indent=1, allow_nan=False) + "\n"}
    check_no_link(folder, folder / "images")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, content)
    for pattern in ("gates*.png", "confusion.png", "sizes.png", "images/*.png"):
        for path in folder.glob(pattern):
            if path.relative_to(folder).as_posix() not in files:
                path.unlink()


def _lines(folder: Path, numbers: dict[str, Any]) -> list[str]:
    fields = numbers["receptive_field"]
    side = fields["theoretical"]
    theory = "covers the whole image" if side is None else f"is {side} pixels wide, a radius of {side / 2:g}"
    lines = [
        f"{folder / 'pictures'}: {', '.join(numbers['pictures'])}",
        f"the backbone's theoretical receptive field {theory}; radius of the square with {MASS:.0%} of the weight:",
    ]
    for part in ("backbone", "backbone+neck"):
        if part in fields:
            radii = [
                f"{stage} training {measured['radius']:g}" if measured else f"{stage} training none (no gradient)"
                for stage, measured in fields[part].items()
            ]
            lines.append(f"  {part}: {', '.join(radii)}")
    for name, found in numbers["contributions"].items():
        for stage in [stage for stage in ("before", "after") if stage in found]:
            shares = ", ".join(f"{c} {share:.1%}" for c, share in zip(found["contexts"], found[stage], strict=True))
            lines.append(f"contributions in {name} {stage} training: {shares}")
    if numbers["boxes"]:
        parts = [f"{kind} {100 * each['gain']:.1f}" for kind, each in numbers["boxes"]["errors"].items()]
        lines.append(f"points of {numbers['boxes']['split']} mAP50 if one kind of error were fixed: {', '.join(parts)}")
    return lines + [f"note: {note}" for note in numbers["notes"]]


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
