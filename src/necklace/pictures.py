"""Pictures of one finished cell: where its network looks, what its gates do, what it confuses, how it does by image size.

All of it comes from what the run left behind, on the CPU: the trained weights from its checkpoint, the initial ones built
again from its seed. The images are the same in all cells that share their data. The same cell gives the same bytes.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix
from yaml import YAMLError

from necklace.assembly import datamodule_of, model_of
from necklace.backbones import receptive_field
from necklace.canvas import saved
from necklace.data.augment import normalise
from necklace.data.datamodule import DataModule
from necklace.data.images import ImageSet
from necklace.drawings import LayerMaps, draw_confusion, draw_gates, draw_receptive_fields, draw_sizes
from necklace.erf import MASS, Spread, effective_receptive_field, spread
from necklace.gates import context_names, focal_layers, focal_parts
from necklace.model import Model, weights_hash
from necklace.necks import NoNeck
from necklace.record import Record, read_record, write_whole

# Validation images that the numbers are a mean over, and how many of them are shown.
IMAGES = 32
SHOWN = 4


@dataclass(frozen=True)
class Cell:
    """A finished cell, opened again.

    Attributes:
        folder: Its folder.
        record: Its record.
        data: Its data.
        models: `before` training and `after`, in evaluation mode; without `before` where the initial weights cannot be built.
        notes: What is missing, as sentences.
    """

    folder: Path
    record: Record
    data: DataModule
    models: dict[str, Model]
    notes: list[str]


def open_cell(folder: Path) -> Cell:
    """Open a finished cell.

    Args:
        folder: Its folder, with record.json, config.yaml and checkpoints/best.ckpt.

    Raises:
        FileNotFoundError: The run is not finished, or a file of it is missing.
        ValueError: The data or the checkpoint are not those of the record.
    """
    for name in ("record.json", "config.yaml", "checkpoints/best.ckpt"):
        if not (folder / name).is_file():
            failed = "; it has failed, see FAILED there" if (folder / "FAILED").exists() else ""
            raise FileNotFoundError(f"{folder}: not the folder of a finished run, it has no {name}{failed}")
    record = read_record(folder / "record.json")
    config: Any = _whole(folder / "config.yaml", OmegaConf.load)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict) or plain.keys() != record.config.keys():
        raise ValueError(f"{folder / 'config.yaml'}: is not the config of the run that record.json speaks of")
    data = datamodule_of(plain)
    changed = [name for name, digest in record.data["digest"].items() if data.digest.get(name) != digest]
    if changed:
        raise ValueError(f"{folder}: the data has changed since the run ({', '.join(changed)})")
    weights = config.backbone.get("pretrained")
    if weights and not Path(weights).is_file():
        config.backbone.pretrained = None  # the trained weights do not need it
    before = model_of(config, data).eval()
    after = copy.deepcopy(before)
    read = partial(torch.load, map_location="cpu", weights_only=True)
    checkpoint = _whole(folder / "checkpoints" / "best.ckpt", read)
    prefix = "model."
    state = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
    after.load_state_dict(state)
    if weights_hash(after) != record.weights_hash:
        raise ValueError(f"{folder}: checkpoints/best.ckpt does not hold the weights that record.json speaks of")
    if weights_hash(before) == record.initial_hash:
        return Cell(folder, record, data, {"before": before, "after": after}, [])
    note = "the initial weights could not be built again (other code, another torch, no weights file), so 'before' is missing"
    return Cell(folder, record, data, {"after": after}, [note])


def _whole(path: Path, read: Callable[[Path], Any]) -> Any:
    """What a file holds.

    Raises:
        ValueError: It cannot be read: it is damaged, or cut off.
    """
    try:
        return read(path)
    except (OSError, EOFError, RuntimeError, UnpicklingError, YAMLError) as error:
        words = f"{error}".partition("\n")[0]
        raise ValueError(f"{path}: cannot be read, {type(error).__name__}: {words}") from error


def draw_cell(folder: Path) -> list[str]:
    """Draw a finished cell's pictures into its folder's `pictures/`, with their numbers in `pictures.json`.

    Args:
        folder: As for `open_cell`.

    Returns:
        What they show, as lines for a person.

    Raises:
        OSError: As for `open_cell`, or the folder cannot be written.
        ValueError: As for `open_cell`, or an activation is NaN or infinite.
    """
    cell = open_cell(folder)
    notes = list(cell.notes)
    val = cell.data.splits["val"]
    chosen = val.select(spaced(len(val), IMAGES))
    figures: dict[str, Figure] = {}

    fields, weights = _receptive_fields(cell, chosen)
    figures["receptive_field"] = draw_receptive_fields(weights, fields["theoretical"])

    inputs = [prepared(cell.data, chosen.select([k])) for k in range(len(chosen))]
    shown = spaced(len(chosen), SHOWN)
    maps = {stage: layer_maps(model, [image for _, image in inputs], shown) for stage, model in cell.models.items()}
    layers = {name: context_names(layer) for name, layer in focal_layers(cell.models["after"]).items()}
    if not layers:
        notes.append("no focal layer in the model, so there are no gates to show")
    for number, (name, contexts) in enumerate(layers.items()):
        of_layer = {stage: found[name] for stage, found in maps.items()}
        title = "gates" if len(layers) == 1 else f"gates_{number}"
        figures[title] = draw_gates(name, contexts, [inputs[k][0] for k in shown], of_layer)

    confusion = None
    if val.labels.ndim == 1:
        split = "test" if "test" in cell.data.splits else "val"
        counts = confusion_matrix(cell.models["after"], cell.data, split)
        confusion = {"split": split, "classes": list(cell.data.classes), "counts": counts.tolist()}
        figures["confusion"] = draw_confusion(counts, cell.data.classes, split)
    else:
        notes.append("an image of this data may show several classes, so there is no confusion matrix")

    by_size = accuracy_by_size(cell.record)
    if by_size["sides"]:
        figures["sizes"] = draw_sizes(**by_size)

    numbers = {
        "cell": cell.record.cell,
        "weights_hash": cell.record.weights_hash,
        "images": list(chosen.names),
        "receptive_field": fields,
        "contributions": {
            name: {"contexts": list(contexts)} | {stage: found[name].shares for stage, found in maps.items()}
            for name, contexts in layers.items()
        },
        "confusion": confusion,
        "by_size": by_size,
        "pictures": [f"{name}.png" for name in figures],
        "notes": notes,
    }
    _write(folder / "pictures", figures, numbers)
    return _lines(folder, numbers)


def spaced(total: int, count: int) -> list[int]:
    """At most `count` of `total` places, evenly spaced: no seed has a say, and a split that is sorted by class shows all."""
    count = min(count, total)
    return [k * total // count for k in range(count)]


def prepared(data: DataModule, one: ImageSet) -> tuple[Tensor, Tensor]:
    """One image at the size at which the run evaluates it: uint8 [H, W, 3] and, normalised, float32 [1, 3, H, W]."""
    size = data.sizes.eval_steps(one.shapes, 1, 0, 1)[0].size
    pixels = one.resized(*size)
    return pixels[0], normalise(pixels, data.mean, data.std)


def layer_maps(model: Model, images: Sequence[Tensor], shown: Sequence[int]) -> dict[str, LayerMaps]:
    """What every focal layer of a model does with some images.

    Args:
        model: In evaluation mode.
        images: Normalised, each [1, 3, H, W].
        shown: Which of them to keep the maps of.

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
                model(image)
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
    """Count, for each true class (row), the classes that the model says (column), over all images of a split: int64 [K, K]."""
    metric = MulticlassConfusionMatrix(len(data.classes))
    with torch.inference_mode():
        for batch in data.eval_batches(split):
            batch = data.prepare(batch, augment=False)
            metric.update(model(batch.images), batch.labels)
        return metric.compute()


def accuracy_by_size(record: Record) -> dict[str, Any]:
    """The test metric at each side in pixels that the run judged besides: `metric`, `sides`, ascending, and `values`."""
    metric = next((name for name in ("test/acc", "test/map") if name in record.figures), "test/acc")
    sides = sorted(int(name.partition("@")[2]) for name in record.figures if name.startswith(f"{metric}@"))
    return {"metric": metric, "sides": sides, "values": [record.figures[f"{metric}@{side}"] for side in sides]}


def _receptive_fields(
    cell: Cell, chosen: ImageSet
) -> tuple[dict[str, Any], dict[tuple[str, str], tuple[Tensor, Spread | None]]]:
    """The numbers for the file, and the weights [H, W] with their spread by (what, stage)."""
    size = cell.data.size
    images = normalise(chosen.resized(*size), cell.data.mean, cell.data.std)
    found: dict[tuple[str, str], tuple[Tensor, Spread | None]] = {}
    for stage, model in cell.models.items():
        parts: dict[str, list[nn.Module]] = {"backbone": [model.backbone]}
        if not isinstance(model.neck, NoNeck):
            parts["backbone+neck"] = [model.backbone, model.neck]
        for what, through in parts.items():
            weights = effective_receptive_field(through, images)
            found[what, stage] = weights, spread(weights)
    numbers: dict[str, Any] = {
        "images": len(images),
        "size": list(size),
        "mass": MASS,
        "theoretical": receptive_field(cell.models["after"].backbone),
    }
    for (what, stage), (_, reach) in found.items():
        content = None if reach is None else {"radius": reach.radius, "side": reach.side, "extent": reach.extent}
        numbers.setdefault(what, {})[stage] = content
    return numbers, found


def _write(folder: Path, figures: dict[str, Figure], numbers: dict[str, Any]) -> None:
    """Write the pictures, then the numbers, and remove the pictures of an earlier time that are not among them."""
    files: dict[str, str | bytes] = {f"{name}.png": saved(figure, name, "png") for name, figure in figures.items()}
    # Escaped, as a class name from a folder may hold what no encoding can write.
    files["pictures.json"] = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        write_whole(folder / name, content)
    for pattern in ("gates*.png", "confusion.png", "sizes.png"):
        for path in folder.glob(pattern):
            if path.name not in files:
                path.unlink()


def _lines(folder: Path, numbers: dict[str, Any]) -> list[str]:
    fields = numbers["receptive_field"]
    side = fields["theoretical"]
    theory = "reaches over the whole image" if side is None else f"is {side} pixels wide, a radius of {side / 2:g}"
    lines = [
        f"{folder / 'pictures'}: {', '.join(numbers['pictures'])}",
        f"the backbone's theoretical receptive field {theory}; radius of the square with {MASS:.0%} of the weight:",
    ]
    for what in ("backbone", "backbone+neck"):
        if what in fields:
            radii = [
                f"{stage} training {reach['radius']:g}" if reach else f"{stage} training none (no gradient)"
                for stage, reach in fields[what].items()
            ]
            lines.append(f"  {what}: {', '.join(radii)}")
    for name, found in numbers["contributions"].items():
        for stage in [stage for stage in ("before", "after") if stage in found]:
            shares = ", ".join(f"{c} {share:.1%}" for c, share in zip(found["contexts"], found[stage], strict=True))
            lines.append(f"contributions in {name} {stage} training: {shares}")
    return lines + [f"note: {note}" for note in numbers["notes"]]


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
