"""`necklace export`: a run's model in a file for other programs, checked against the model before it is left there.

Beside the file lies a JSON with all that another program needs: pre-processing, classes, what the output means, and where the
weights come from.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from necklace.atomic import write_whole
from necklace.data.files import readable
from necklace.data.glyphs import Glyphs
from necklace.data.images import SPLIT_NAMES, ImageSet
from necklace.guard.private import with_home
from necklace.inference.formats import ENDINGS, INPUT, Plain, missing_packages, read_model, write_model
from necklace.inference.loaded import LoadedRun
from necklace.tasks.detection import CANDIDATES, LEAST_SCORE, MOST, OVERLAP

# Between the model's predictions and those of the file; and between logits, as a share of the largest one above 1, or between
# the corners of boxes, as a share of the image's longer side.
TOLERANCE = 1e-4
IMAGES = 100
BATCH = 10


@dataclass(frozen=True)
class Agreement:
    """How well a file's function agrees with the model.

    Attributes:
        images: The images in words: how many, and where they come from.
        sizes: Heights and widths at which they were compared.
        probabilities: Largest difference between probabilities, or between scores of boxes.
        logits: Largest difference between logits; of a run that finds objects between corners of boxes, in pixels.
        scale: What a difference between logits or corners is held against.
        what: What is compared: two words.
    """

    images: str
    sizes: tuple[tuple[int, int], ...]
    probabilities: float
    logits: float
    scale: float
    what: tuple[str, str] = ("a probability", "a logit")

    @property
    def holds(self) -> bool:
        """Whether the file may be used in the model's place; not where a value is NaN."""
        return self.probabilities <= TOLERANCE and self.logits <= TOLERANCE * max(1.0, self.scale)

    def __str__(self) -> str:
        """One line."""
        differences = f"largest difference {self.probabilities:.1e} in {self.what[0]}, {self.logits:.1e} in {self.what[1]}"
        return f"{self.images}, at {len(self.sizes)} sizes: {differences} (allowed {TOLERANCE:g})"


def export_run(run: LoadedRun, form: str, path: Path | None = None) -> list[str]:
    """Write a run's model to a file, and what belongs to it to FILE.json.

    Args:
        run: The run, on the CPU.
        form: `onnx`, `torchscript` or `safetensors`.
        path: The file; None for `model` with the format's ending in the run's folder.

    Returns:
        Lines to print.

    Raises:
        FileNotFoundError: The folder of `path` does not exist.
        ValueError: The format is unknown or its packages are missing, or the file would not give the model's predictions; then
            there is no file.
    """
    if form not in ENDINGS:
        raise ValueError(f"--format={form}: must be one of {', '.join(ENDINGS)}")
    missing = missing_packages(form)
    if missing:
        raise ValueError(f"--format={form}: needs {', '.join(missing)}; they come with the extra 'export' of necklace")
    path = path or run.folder / f"model{ENDINGS[form]}"
    if path.is_dir():
        raise ValueError(f"--out={path}: is a folder, and must be a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--out={path}: there is no folder {path.parent}")
    images, of = _images(run)
    example = _example_size(run)
    others, refusal = _other_sizes(run, example)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        about = _about(run, form, None if refusal is None else example)
        try:
            write_model(run.model, form, torch.zeros(2, 3, *example), refusal is None, about, made)
        except Exception as error:  # the exporters have their own kinds of errors
            if form != "onnx" or refusal is not None:
                raise ValueError(f"--format={form}: this model cannot be written: {_words(error)}") from error
            others, refusal = [], f"ONNX's export of this model with free sizes failed: {_words(error)}"
            about = _about(run, form, example)
            write_model(run.model, form, torch.zeros(2, 3, *example), False, about, made)
        found = _compared(run, read_model(run.model, form, made), _batches(run, images, others), f"{len(images)} images {of}")
        if not found.holds:
            raise ValueError(f"--format={form}: the file would not give the run's predictions ({found}), so there is none")
        about["check"] = {"images": found.images, "sizes": [f"{height}x{width}" for height, width in found.sizes]}
        about["check"] |= {"largest_difference": found.probabilities, "largest_logit_difference": found.logits}
        write_whole(path.with_name(f"{path.name}.json"), json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        os.replace(made, path)
    fixed = [] if refusal is None else [f"height and width are fixed at {example[0]}x{example[1]}: {refusal}"]
    shapes = " and ".join(f"{each['name']} [{', '.join(map(str, each['shape']))}]" for each in _outputs(run))
    what = f"{INPUT} float32 [N, 3, H, W] to {shapes}" if form != "safetensors" else "the weights"
    return [f"{path}: {what}", f"{path}.json: pre-processing, classes, origin", *fixed, f"checked on {found}"]


def _about(run: LoadedRun, form: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """What a file's JSON says; `size` is the only height and width, or None where they are free."""
    record = run.record
    outputs = _outputs(run)
    return {
        "format": form,
        "input": {"name": INPUT, "type": "float32", "shape": ["N", 3, *(size or ("H", "W"))]},
        **({"outputs": outputs, "postprocessing": _postprocessing()} if run.model.dense else {"output": outputs[0]}),
        "classes": list(run.classes),
        "task": record.choices["task"],
        "preprocessing": run.preprocessing.described(),
        "run": record.name,
        "hash": record.hash,
        "weights_hash": record.weights_hash,
        "commit": None if record.git is None else record.git["sha"],
        "uncommitted_changes": None if record.git is None else record.git["dirty"],
        "views": {"mirror": run.model.mirror, "shift": run.model.shift},
        "metrics": record.metrics,
        "model": {name: record.config[name] for name in ("backbone", "neck", "head")},
    }


def _outputs(run: LoadedRun) -> list[dict[str, Any]]:
    """What a file gives, ready for JSON."""
    classes = len(run.classes)
    if not run.model.dense:
        activation = "softmax over the K classes" if run.one_label else "sigmoid of each; above 0.5 the class is in the image"
        return [{"name": "logits", "type": "float32", "shape": ["N", classes], "probabilities": activation}]
    frame = "x0, y0, x1, y1 in pixels of the input, from its upper left corner; they may reach beyond it"
    return [
        {"name": "scores", "type": "float32", "shape": ["N", "A", classes], "words": "of each class at A places, in (0, 1)"},
        {"name": "boxes", "type": "float32", "shape": ["N", "A", 4], "words": frame},
    ]


def _postprocessing() -> dict[str, Any]:
    """What `necklace.load(RUN).predict` does with the scores and boxes of an image, ready for JSON."""
    return {
        "least_score": LEAST_SCORE,
        "candidates": CANDIDATES,
        "iou": OVERLAP,
        "most": MOST,
        "words": "clip boxes to the input; of all places and classes with a score above least_score and boxes with an area,"
        " take the best candidates; of two boxes of a class that overlap by more than iou, leave out the worse; keep the"
        " best most; scale x by width and y by height of the image over those of the input",
    }


def _example_size(run: LoadedRun) -> tuple[int, int]:
    """A height and width that the run's images have."""
    stride = run.model.backbone.stride
    return run.preprocessing.size_of(run.record.neck_input[1] * stride, run.record.neck_input[2] * stride)


def _other_sizes(run: LoadedRun, example: tuple[int, int]) -> tuple[list[tuple[int, int]], str | None]:
    """Sizes around the example's that the model takes, and why it takes no other than the example's, None if it does.

    The sizes are larger, wider, no multiple of the stride, taller and smaller; a run is trained on few of them, or none.
    """
    height, width = example
    stride = run.model.backbone.stride
    accepted = []
    for size in (
        (height + 2 * stride, width + 3 * stride),
        (height + 1, 2 * width - 1),
        (height + height // 2, width),
        (max(stride, height - height // 4), max(stride, width - width // 3)),
    ):
        try:
            with torch.no_grad():
                run.model(torch.zeros(1, 3, *size))
            accepted.append(size)
        except Exception as error:  # a head's or a library's own way to say so
            if not accepted:
                return [], _words(error)
    return accepted, None


def _images(run: LoadedRun) -> tuple[list[Tensor], str]:
    """Up to `IMAGES` images of the run, test before val before train, or drawn ones where they are not there; and which."""
    node = with_home(dict(run.record.config["data"]["source"]))
    if "download" in node:
        node["download"] = False
    try:
        source = instantiate(OmegaConf.create(node))
        for name in reversed(SPLIT_NAMES):
            split = source.split(name)
            if split is not None and len(split):
                chosen = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).long().tolist()
                return [split.image(index) for index in chosen], f"of the run's {name} split"
        reason = "it has no images"
    except Exception as error:  # a source of the user's own may fail in any way
        reason = _words(error)
    drawn = Glyphs(train=1, test=IMAGES).split("test")
    assert drawn is not None
    return [drawn.image(index) for index in range(len(drawn))], f"drawn for the purpose, as the run's cannot be read ({reason})"


def _compared(
    run: LoadedRun, written: Callable[[Tensor], tuple[Tensor, ...]], batches: Iterable[Tensor], images: str
) -> Agreement:
    """Compare a file's function with the model's on batches float32 [B, 3, H, W]; `images` says in words what they are."""
    plain = Plain(run.model)
    sizes: dict[tuple[int, int], None] = {}
    differences, scale = [], 0.0
    for batch in batches:
        height, width = batch.shape[2:]
        with torch.no_grad():
            pairs = zip(plain(batch), written(batch), strict=True)
            (due, found), *corners = ((expected.float(), other.float()) for expected, other in pairs)
        sizes[height, width] = None
        if corners:  # of boxes, clipped to the image as they are used
            ends = torch.tensor([width, height] * 2)
            own, others = (boxes.clamp(min=0).minimum(ends) for boxes in corners[0])
            differences.append([(found - due).abs().max(), (others - own).abs().max()])
            scale = max(scale, height, width)
        else:
            differences.append([(run.activated(found) - run.activated(due)).abs().max(), (found - due).abs().max()])
            scale = max(scale, float(due.abs().max()))
    probabilities, of_logits = torch.tensor(differences).amax(0).tolist()  # NaN, where there is one
    what = ("a score", "a corner of a box in pixels") if run.model.dense else Agreement.what
    return Agreement(images, tuple(sizes), probabilities, of_logits, scale, what)


def _batches(run: LoadedRun, images: list[Tensor], others: list[tuple[int, int]]) -> Iterator[Tensor]:
    """The images as the model's input: all at their sizes in the run's evaluation, and a batch of them at each other size."""
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for image in images:
        sized = run.preprocessing.sized(image)
        groups.setdefault(tuple(sized.shape), []).append(sized)
    for group in groups.values():
        for start in range(0, len(group), BATCH):
            yield run.preprocessing.normalised(torch.stack(group[start : start + BATCH]))
    for height, width in others:
        resized = [ImageSet.build([image], [0], ["image"]).resized(height, width) for image in images[:BATCH]]
        yield run.preprocessing.normalised(torch.cat(resized))


def _words(error: Exception) -> str:
    """The first line of an error's cause, at most 200 characters."""
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return readable(text.splitlines()[0][:200])
