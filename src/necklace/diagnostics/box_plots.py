"""Pictures of a run that finds objects, drawn from numbers: each function returns a figure and reads no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Stroke

from necklace.boxes.errors import Errors
from necklace.boxes.truth import COUNTS
from necklace.plotting import (
    COLOURS,
    FONT_SIZE,
    GREY,
    LABEL,
    LEGEND,
    STYLES,
    WIDTH,
    add_legend,
    fitted_lines,
    plain_axes,
    plain_style,
    row_axes,
    set_title,
)

# Colours of classes; with more classes than these, a colour stands for several, and labels have the names.
PALETTE = (COLOURS[6], COLOURS[1], COLOURS[3], COLOURS[5], COLOURS[4], COLOURS[2], COLOURS[0])
COLUMNS = 2  # of images
# With more predicted boxes than this in an image, labels have no room for names.
MOST_LABELLED = 8
MOST_CURVES = 14  # classes with a line of their own
LOWEST = 7  # of more classes, those with the lowest average precision have one
HALO = 0.9  # points around a true box's line


@dataclass(frozen=True, eq=False)
class ShownImage:
    """An image with its boxes, `[x0, y0, x1, y1]` in pixels of the image as it is here.

    Attributes:
        pixels: uint8 [H, W, 3].
        true_boxes: [M, 4].
        true_classes: int [M].
        flags: [M], as in `ImageBoxes`.
        boxes: [D, 4], the predicted boxes that are shown.
        scores: [D].
        classes: int [D].
    """

    pixels: np.ndarray
    true_boxes: np.ndarray
    true_classes: np.ndarray
    flags: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def draw_detections(images: Sequence[ShownImage], classes: Sequence[str], split: str, least: float) -> Figure:
    """Draw true and predicted boxes over images.

    Args:
        images: At least one.
        classes: Names of the K classes.
        split: The images' split, for the title.
        least: The score from which predicted boxes are shown.
    """
    with plain_style("detections"):
        few = len(classes) <= len(PALETTE)
        lines = [images[start : start + COLUMNS] for start in range(0, len(images), COLUMNS)]
        columns = min(COLUMNS, len(images))
        tallest = [max(image.pixels.shape[0] / image.pixels.shape[1] for image in line) for line in lines]
        width = WIDTH / columns
        height = sum(width * min(tall, 2) for tall in tallest)
        figure = Figure(figsize=(WIDTH, height + 0.3), layout="constrained")
        grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=[min(tall, 2) for tall in tallest])
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, image in zip(grid.flat, images, strict=False):
            _draw_image(axes, image, classes, few)
        figure.suptitle(f"images of {split}", x=0.01, ha="left", fontsize=FONT_SIZE, parse_math=False)
        entries: list[tuple] = []
        if few:
            used = sorted({int(k) for image in images for k in (*image.true_classes, *image.classes)})
            entries = [(Line2D([], [], color=_colour(k), linewidth=2.2), fitted_lines(classes[k], LEGEND, 2)) for k in used]
        rim = [Stroke(linewidth=0.8 + HALO, foreground="white"), Stroke()]
        thin = Line2D([], [], color=GREY, linewidth=0.8, path_effects=rim)
        thick = Line2D([], [], color=GREY, linewidth=2.2)
        entries += [
            (thin, ["true, with a white rim; dotted: does not count"]),
            (thick, [f"predicted, with its score, from {least:g}"]),
        ]
        _add_height(figure, entries)
        add_legend(figure, entries, 0)
        return figure


def draw_precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], precisions: Mapping[str, float], split: str
) -> Figure:
    """Draw the precision-recall curve of each class at an IoU of 0.5.

    Args:
        curves: Class to recall and precision, both [P] in [0, 1].
        precisions: Class to average precision, in [0, 1], of the same classes.
        split: The images' split, for the title.
    """
    with plain_style("precision_recall"):
        figure, axes = plain_axes(3.4)
        ranked = sorted(curves, key=lambda name: (precisions[name], name))
        own = list(curves) if len(curves) <= MOST_CURVES else ranked[:LOWEST]
        entries: list[tuple] = []
        for name in curves:
            if name not in own:
                axes.plot(*(100 * values for values in curves[name]), color=GREY, linewidth=0.6, alpha=0.6)
        for number, name in enumerate(own):
            style = STYLES[number // len(PALETTE)]
            (line,) = axes.plot(
                *(100 * values for values in curves[name]), color=_colour(number), linestyle=style, linewidth=1.5
            )
            (text, *more) = fitted_lines(name, LEGEND - 60, 2)
            entries.append((line, [f"{text} {100 * precisions[name]:.1f}", *more]))
        if len(own) < len(curves):
            rest = Line2D([], [], color=GREY, linewidth=0.6, alpha=0.6)
            entries.append((rest, [f"the other {len(curves) - len(own)} classes; named: the lowest"]))
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.set_xlabel("recall in %")
        axes.grid(alpha=0.3)
        set_title(axes, f"{split}: precision in %, IoU 0.5; beside the names: average precision")
        _add_height(figure, entries)
        add_legend(figure, entries, 0)
        return figure


def draw_errors(errors: Errors, split: str) -> Figure:
    """Draw what each kind of error costs.

    Args:
        errors: The errors.
        split: The images' split, for the title.
    """
    with plain_style("errors"):
        names = list(errors.gains)
        units = ["objects" if name == "missed" else "boxes" for name in names]
        notes = [f"{errors.counts[name]:,} {unit}" for name, unit in zip(names, units, strict=True)]
        figure, axes, places = row_axes(names, notes, 0.75)
        gains = [100 * errors.gains[name] for name in names]
        axes.barh(places, gains, height=0.22, color=PALETTE[0])
        for place, gain in zip(places, gains, strict=True):
            axes.annotate(f"{gain:.1f}", (gain, place), (4, 0), textcoords="offset points", va="center", fontsize=FONT_SIZE - 1)
        axes.set_xlim(0, 1.12 * max(*gains, 1.0))
        axes.set_xlabel("gain in points of mAP50 if this kind alone were fixed")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        set_title(axes, f"{split}: mAP50 {100 * errors.map50:.1f} %; wrong boxes by kind, at all scores")
        return figure


def _draw_image(axes: Axes, image: ShownImage, classes: Sequence[str], few: bool) -> None:
    height, width = image.pixels.shape[:2]
    axes.imshow(image.pixels, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    named = len(image.scores) <= MOST_LABELLED or not few
    # The worst first, so that the best are on top.
    order = np.argsort(image.scores, kind="stable")
    for k in order:
        colour = _colour(int(image.classes[k]))
        axes.add_patch(_outline(image.boxes[k], colour, 2.2, "-"))
    for box, number, flag in zip(image.true_boxes, image.true_classes, image.flags, strict=True):
        outline = _outline(box, _colour(int(number)), 0.8, "-" if flag == COUNTS else ":")
        outline.set_path_effects([Stroke(linewidth=0.8 + HALO, foreground="white"), Stroke()])
        axes.add_patch(outline)
    for k in order:
        score = f"{image.scores[k]:.2f}".lstrip("0")
        name = fitted_lines(classes[int(image.classes[k])], LABEL * 0.6, 1)[0] if named else ""
        x, y = np.clip(image.boxes[k][:2], 0, (width, height))
        top = y > 0.06 * height
        text = axes.annotate(
            f"{name} {score}".strip(),
            (x, y),
            (0, 1.5 if top else -1.5),
            textcoords="offset points",
            ha="left",
            va="bottom" if top else "top",
            fontsize=4.5,
            color="white",
            parse_math=False,
            annotation_clip=True,
        )
        text.set_bbox({"facecolor": _colour(int(image.classes[k])), "edgecolor": "none", "pad": 0.6, "alpha": 0.85})
        text.set_clip_on(True)


def _outline(box: np.ndarray, colour: str, width: float, style: str) -> Rectangle:
    x0, y0, x1, y1 = map(float, box)
    return Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width, linestyle=style)


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _add_height(figure: Figure, entries: Sequence[tuple]) -> None:
    """Make room for a legend's lines, of which `add_legend` makes two columns where there are many short ones."""
    lines = len(entries) if len(entries) <= 4 else (len(entries) + 1) // 2
    figure.set_figheight(figure.get_figheight() + 0.16 * lines)
