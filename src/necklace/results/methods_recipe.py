"""The part of a methods section that says how runs were trained: data, models, training; what differs, row by row."""

from collections.abc import Callable, Sequence
from functools import partial

from necklace.identity import leaves, shown
from necklace.record import Record
from necklace.results.methods_parts import MODULATION, class_of, drawn, listed, parsed, part_sentences, splits_val_off
from necklace.results.prose import Cite, Code, Part, Sentence
from necklace.results.recipe import at, records, scalars, short
from necklace.results.results import Results
from necklace.study.study_file import MATCH_WITHIN

PRECISIONS = {"32-true": "float32", "bf16-mixed": "bfloat16 and float32, mixed", "16-mixed": "float16 and float32, mixed"}
OPTIMIZERS = {"AdamW": "loshchilov2019decoupled", "Muon": "jordan2024muon"}  # class to its source in the bibliography


def said(results: Results, tell: Callable[[Record], str], otherwise: str = "") -> list[Part]:
    """What `tell` says of the runs: once where it is the same of all, else by row, with `otherwise` for nothing."""
    rows: dict[str, list[str]] = {}
    for row in results.rows:
        for text in dict.fromkeys(tell(run.record) for run in row.runs if run.record):
            rows.setdefault(text, []).append(row.name)
    if len(rows) == 1:
        return [text for text in rows if text]
    parts: list[Part] = []
    for text, names in rows.items():
        if text or otherwise:
            parts += ["; " if parts else "", text or otherwise, " (", *listed(names), ")"]
    return parts


def data_sentences(results: Results) -> list[Sentence]:
    """Data and split, sizes, augmentation."""
    place = said(results, _place)
    counts = said(results, _counts)
    every = records(results)
    sentences: list[Sentence] = []
    if place or counts:
        sentences.append(["The images are those of ", *place, *([": "] if place and counts else []), *counts, "."])
    if len({str(sorted(record.data.get("digest", {}).items())) for record in every}) == 1:
        sentences.append(["All runs have the same images in the same split, which does not depend on the seed."])
    if every and all(class_of(at(record.config, "data", "source")) for record in every):
        sentences += part_sentences(
            results, ("data", "source"), lambda _, rows, alone: ["They are "] if alone else ["Those of ", *rows, " are "]
        )
    limits = said(results, _limited)
    sentences += [["Of the data set, ", *limits, " are used, the same share of each class."]] if limits else []
    validation = said(results, _validation)
    sentences += [["The validation images are ", *validation, "."]] if validation else []
    skipped = said(results, lambda record: f"{len(record.data.get('skipped', ())):,}" if record.data.get("skipped") else "")
    sentences += [["Files that could not be used were left out: ", *skipped, "."]] if skipped else []
    sizes = said(results, _sizes)
    sentences += [["Image sizes: ", *sizes, "."]] if sizes else []
    normalised = said(results, _normalised)
    sentences += [["Pixels, from 0 to 1, are normalised by channel: minus ", *normalised, "."]] if normalised else []
    augmentation = said(results, _augmentation, "no augmentation")
    if augmentation:
        sentences.append(["Augmentation of the training images: ", *augmentation, "."])
    elif any(at(record.config, "data", "augment") for record in every):
        sentences.append(["The training images are not augmented."])
    return sentences


def _validation(record: Record) -> str:
    share = at(record.config, "data", "val_fraction")
    return f"split off the training images, {100 * share:g} % of each class" if share and splits_val_off(record) else ""


def _normalised(record: Record) -> str:
    mean, std = (at(record.config, "data", name) for name in ("mean", "std"))
    if not mean or not std:
        return ""
    return " over ".join(f"({', '.join(f'{value:g}' for value in values)})" for values in (mean, std))


def _place(record: Record) -> str:
    root = at(record.config, "data", "root") or at(record.config, "data", "source", "root")
    kinds = {"folder": "an image folder", "voc": "VOC's format", "coco": "COCO's format", "yolo": "YOLO's format"}
    name = record.choices.get("data", "")
    folder = str(root).rstrip("/").rpartition("/")[2] if isinstance(root, str) else ""
    if name in kinds and folder:
        return f"{folder} ({kinds[name]})"
    return f"the source {name}" if name and drawn(record) else name


def _counts(record: Record) -> str:
    images, classes = record.data.get("images", {}), record.data.get("classes", ())
    words = {"train": "training", "val": "validation", "test": "test"}
    counts = [f"{images[split]:,} {word} images" for split, word in words.items() if split in images]
    of = f" of {len(classes)} classes" if classes and counts else ""
    return f"{', '.join(counts[:-1])}{' and ' if counts[:-1] else ''}{''.join(counts[-1:])}{of}"


def _limited(record: Record) -> str:
    images, parts = record.data.get("images", {}), []
    if most := at(record.config, "data", "train_images"):
        both = images.get("train", 0) + images.get("val", 0) == most
        parts.append(f"{most:,} training images{' (validation included)' if both else ''}")
    if most := at(record.config, "data", "test_images"):
        parts.append(f"{most:,} test images")
    return " and ".join(parts)


def _sizes(record: Record) -> str:
    sizes, name = at(record.config, "data", "sizes") or {}, record.choices.get("data/sizes", "")
    if name == "fixed" and sizes.get("size"):
        side = sizes["size"]
        return f"each image is resized to {side} × {side} pixels" if isinstance(side, int) else f"resized to {side} pixels"
    if name == "native":
        return (
            f"each image keeps its own shape, with a longest side of at most {sizes.get('max_side')} pixels and sides that are "
            f"multiples of {sizes.get('stride')}; a batch holds images of one shape"
        )
    if name == "multiscale":
        one = sizes.get("per") == "epoch"
        way = "the images of an epoch are resized to one side, in turn" if one else "each batch is resized to a side drawn from"
        return f"{way} {str(sizes.get('sizes')).strip('[]')} pixels; evaluation at {sizes.get('eval_size')} pixels"
    return ""


def _augmentation(record: Record) -> str:
    found = at(record.config, "data", "augment") or {}
    words = {
        "mosaic": f"mosaics of four images with probability {found.get('mosaic')}",
        "crop_padding": f"random shifts by up to {found.get('crop_padding')} pixels",
        "photometric": f"random brightness, contrast and saturation (strength {found.get('photometric')})",
        "cutout": f"squares of {found.get('cutout')} pixels cut out",
    }
    used = [text for name, text in words.items() if found.get(name)]
    if found.get("crop_scale", 1) != 1:
        used.insert(0, f"random crops of {short(found['crop_scale'])} to 1 of the area, resized")
    if found.get("flip"):
        used.append("horizontal flips in every other epoch" if found["flip"] == "alternate" else "random horizontal flips")
    return ", ".join(used)


def model_sentences(results: Results) -> list[Sentence]:
    """The rows, their models, and what controls what."""
    compared = [f"The study compares {len(results.rows)} models: " if len(results.rows) > 1 else "There is one model: "]
    sentences: list[Sentence] = [[*compared, *listed([row.name for row in results.rows]), "."]]
    model = said(results, _backbone_and_head)
    sentences += [["Each consists of a backbone, a neck and a head: ", *model, "."]] if model else []
    for part in ("backbone", "head"):
        sentences += part_sentences(results, (part,), partial(_opening, part), options=part == "head")
    sentences += part_sentences(results, ("neck",), lambda _, rows, __: ["Neck of ", *rows, ": "])
    if any(class_of(record.config.get("neck")) in ("FocalModulation", "FocalBlock") for record in records(results)):
        sentences.append(parsed(MODULATION))
    sentences += _controls(results)
    sizes = sorted({row.cost.params for row in results.rows if row.cost})
    if sizes:
        reach = f"{sizes[0]:,}" if len(sizes) == 1 else f"between {sizes[0]:,} and {sizes[-1]:,}"
        sentences.append([f"In all, a model has {reach} parameters."])
    return sentences


def _controls(results: Results) -> list[Sentence]:
    """What the matched rows are, and what their necks are made of."""
    sentences: list[Sentence] = []
    for kind, size in (("params", "parameters"), ("macs", "multiply-adds")):
        names = [name for name, what in results.study.controls.items() if what == kind]
        if names:
            start = "The row " if len(names) == 1 else "The rows "
            are = " is a control" if len(names) == 1 else " are controls"
            sentences.append(
                [
                    start,
                    *listed(names),
                    f"{are} of size: the width of such a neck is set so that it has as many {size} as the ",
                ]
                + [f"neck of the row that its name ends with, within {100 * MATCH_WITHIN:g} %."]
            )
    return sentences


def _opening(part: str, record: Record, rows: Sequence[Part], alone: bool) -> Sentence:
    return [f"The {part} ", Code(record.choices.get(part, "")), *([] if alone else [" (", *rows, ")"]), " is "]


def _backbone_and_head(record: Record) -> str:
    backbone, head = record.choices.get("backbone", ""), record.choices.get("head", "")
    if not backbone:
        return ""
    node = record.config.get("backbone") or {}
    options = scalars(node, {"name", "stage", "pretrained"} if node.get("stages") else {"name", "pretrained"})
    options += [f"{key}={shown(node[key])}" for key in ("stages", "pretrained_skip") if node.get(key)]
    options += [f"{key}={shown(value)}" for key, value in leaves(node.get("options") or {}).items()]
    named = [f"a form of {node['name']}"] if isinstance(node.get("name"), str) and node["name"] != backbone else []
    about = ", ".join([*named, *(text.replace("=", " ") for text in options)])
    taken, tensors = (*record.pretrained, 0, 0)[:2]
    start = f"{taken} of its {tensors} tensors from a file of pretrained weights" if taken else "trained from random weights"
    shape = " × ".join(map(str, record.neck_input))
    finer = ", the coarsest, while the finer ones go to the head past it" if len(node.get("stages") or ()) > 1 else ""
    built = f"the backbone {backbone}{f' ({about})' if about else ''}, {start}"
    return f"{built}; the neck on a map of {shape} (channels, height, width){finer}; the head {head}"


def training_sentences(results: Results) -> list[Sentence]:
    """Budget, optimizer, schedule and what was chosen."""
    every = records(results)
    sentences: list[Sentence] = []
    budget = said(results, _budget)
    sentences += [["Each run trains for ", *budget, "."]] if budget else []
    optimizer = said(results, _optimizer)
    if any(record.train_images_left_out for record in every):
        sentences.append(
            ["At the end of an epoch, images that fill no whole batch are left out; which ones changes from epoch to epoch."]
        )
    sentences += part_sentences(results, ("task",), _loss, options=False)
    kinds = {str(at(record.config, "optimizer", "_target_")).rpartition(".")[2] for record in every}
    cited = [Cite(key) for kind, key in OPTIMIZERS.items() if kind in kinds]
    sentences += [["The optimizer is ", *optimizer, *cited, "."]] if optimizer else []
    if "Muon" in kinds:
        rest = "biases, norms and depth-wise convolutions are left to AdamW, with Nesterov's momentum where Muon has it."
        sentences.append([f"Muon trains matrices and convolutions; {rest}"])
    if any(at(record.config, "optimizer", "weight_decay") and class_of(record.config.get("task")) for record in every):
        sentences.append(["Weight decay leaves out biases, norms and all other parameters with one axis."])
    for tell, otherwise, start in (
        (_schedule, "none", "The learning rate's schedule is "),
        (_extras, "nothing", "Further settings: "),
    ):
        text = said(results, tell, otherwise)
        sentences += [[start, *text, "."]] if text else []
        if tell is _schedule:
            sentences += part_sentences(results, ("schedule",), lambda _, __, ___: [], options=False)
    if any(row.chosen for row in results.rows):
        parts: list[Part] = []
        for row in results.rows:
            chosen = ", ".join(f"{key}={value}" for key, value in row.chosen.items())
            parts += ["; " if parts else "", Code(row.name), ": ", Code(chosen)] if chosen else []
        tried = " and ".join(sorted({key for row in results.rows for key in row.chosen}))
        sentences.append(
            ["For each row, several values of ", Code(tried), " were tried with all seeds; the table has those with the ",
             "highest mean of the validation metric (", *parts, ")."]
        )  # fmt: skip
    return sentences


def _loss(record: Record, rows: Sequence[Part], alone: bool) -> Sentence:
    return ["The loss is "] if alone else ["The loss of ", *rows, " is "]


def _budget(record: Record) -> str:
    batch = record.config.get("batch_size")
    most = "up to " if record.choices.get("data/sizes") == "native" else ""
    of = f" with {most}{batch} images in a step" if batch else ""
    return f"{record.epochs} epochs ({record.steps:,} steps){of}" if record.epochs else ""


def _optimizer(record: Record) -> str:
    node = record.config.get("optimizer") or {}
    name = str(node.get("_target_", "")).rpartition(".")[2]
    words = {"lr": "learning rate", "weight_decay": "weight decay", "momentum": "momentum"}
    words["fallback_lr_scale"] = "for AdamW the learning rate times"
    options = [f"{word} {short(node[key])}" for key, word in words.items() if short(node.get(key))]
    options += ["Nesterov"] if node.get("nesterov") is True else []
    return f"{name} ({', '.join(options)})" if options else name


def _schedule(record: Record) -> str:
    node, name = record.config.get("schedule") or {}, record.choices.get("schedule", "")
    known = {"one_cycle": "one cycle", "cosine": "a cosine", "constant": "constant"}
    options = ", ".join(text.replace("_", " ").replace("=", " ") for text in scalars(node, set()))
    return f"{known.get(name, name)}{f' ({options})' if options else ''}" if name else ""


def _extras(record: Record) -> str:
    task, trainer = record.config.get("task") or {}, record.config.get("trainer") or {}
    words = []
    if task.get("label_smoothing"):
        words.append(f"label smoothing {short(task['label_smoothing'])}")
    if task.get("bias_lr", 1.0) != 1:
        words.append(f"the learning rate of biases times {short(task['bias_lr'])}")
    if task.get("class_weights"):
        words.append("a loss with weights of classes")
    if at(record.config, "data", "sampler") == "balanced":
        words.append("batches that show each class equally often")
    if trainer.get("gradient_clip_val"):
        words.append(f"gradients clipped to {short(trainer['gradient_clip_val'])}")
    if trainer.get("precision"):
        words.append(f"computed in {PRECISIONS.get(str(trainer['precision']), trainer['precision'])}")
    return ", ".join(words)
