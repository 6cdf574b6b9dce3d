"""The pictures of one run, drawn from numbers: each function returns a figure and reads no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from necklace.diagnostics.receptive_field import MASS, Spread
from necklace.plotting import COLOURS, FONT_SIZE, GREY, LABEL, WIDTH, fitted_lines, plain_style

BLUE, RED = COLOURS[6], COLOURS[4]
# White is exactly zero. The smallest amount above it has a colour, so that the two can be distinguished.
AMOUNT = LinearSegmentedColormap.from_list("amount", ["#E3EEF6", "#56B4E9", BLUE, "#001B30"]).with_extremes(bad="white")
SIGNED = LinearSegmentedColormap.from_list("signed", ["#00253E", BLUE, "white", RED, "#4A2000"])
DECADES = 4
# With more classes than this, counts and then names are left out of the picture; the file with the numbers has all of them.
MOST_COUNTS = 12
MOST_NAMES = 40


@dataclass(frozen=True)
class LayerMaps:
    """Contributions, gates and modulators of a focal layer over some images.

    Attributes:
        shares: Each context's share of the contribution: the norm over channels of gate * context, mean over positions and
            images. The shares sum to 1.
        gates: For each image that is drawn, [contexts, h, w]; empty without gating.
        modulators: For each image that is drawn, the modulator's norm over channels, [h, w].
    """

    shares: list[float]
    gates: list[Tensor]
    modulators: list[Tensor]


def draw_receptive_fields(fields: Mapping[tuple[str, str], tuple[Tensor, Spread | None]], theoretical: int | None) -> Figure:
    """Draw effective receptive fields, one row for each stage of training.

    Args:
        fields: By part (backbone, backbone+neck) and stage (before, after): the weights [H, W] and their spread.
        theoretical: Side of the backbone's theoretical receptive field in pixels, None where it is the whole image.
    """
    with plain_style("receptive_field"):
        columns = list(dict.fromkeys(part for part, _ in fields))
        rows = list(dict.fromkeys(stage for _, stage in fields))
        figure = Figure(figsize=(WIDTH, 0.6 + 2.3 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        boxes = [found.box for (part, _), (_, found) in fields.items() if part == "backbone" and found]
        image = None
        for (part, stage), (weights, found) in fields.items():
            axes: Axes = grid[rows.index(stage), columns.index(part)]
            shares = (weights / weights.max().clamp(min=1e-300)).numpy()
            norm = LogNorm(10.0**-DECADES, 1, clip=True)
            image = axes.imshow(np.ma.masked_equal(shares, 0), cmap=AMOUNT, norm=norm, interpolation="nearest")
            _title(axes, f"{part}: {f'radius {found.radius:g}' if found else 'no gradient'}")
            if part == columns[0]:
                axes.set_ylabel(f"{stage} training")
            axes.set_xticks([])
            axes.set_yticks([])
            if theoretical and boxes:
                # Where all of its weights are above zero, the box is the theoretical field; else the two middles are close.
                middle = [(boxes[0][k] + boxes[0][k + 2]) / 2 for k in (0, 1)]
                axes.add_patch(_square(middle[0] - theoretical / 2, middle[1] - theoretical / 2, theoretical, "black", ":"))
            if found:
                axes.add_patch(_square(*found.corner, found.side, RED, "-"))
        entries = [(_square(0, 0, 1, RED, "-"), f"holds {MASS:.0%} of the weight; radius: half its side, in pixels")]
        if theoretical:
            entries.append((_square(0, 0, 1, "black", ":"), f"theoretical field of the backbone: {theoretical} pixels"))
        if image is not None:
            bar = figure.colorbar(image, ax=grid, location="bottom", aspect=40, shrink=0.9, pad=0.03)
            bar.set_label("weight of a pixel, the largest = 1; white: exactly 0")
        figure.legend(*zip(*entries, strict=True), loc="outside lower left")
        return figure


def draw_gates(
    name: str, contexts: Sequence[str], pixels: Sequence[Tensor], stages: Mapping[str, LayerMaps], theme: str = "gates"
) -> Figure:
    """Draw each context's gate and the modulator's magnitude over some images, one block for each stage of training.

    Args:
        name: The layer's name in the model.
        contexts: Names of its contexts.
        pixels: The images, each uint8 [H, W, 3].
        stages: By stage (before, after), with as many maps as there are images.
        theme: The picture's name.
    """
    with plain_style(theme):
        columns = 2 + len(contexts)
        panel = WIDTH / columns
        figure = Figure(
            figsize=(WIDTH, len(stages) * (0.95 + (panel + 0.02) * len(pixels))),
            layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03),
        )
        blocks = figure.subfigures(len(stages), 1, squeeze=False)[:, 0]
        for block, (stage, maps) in zip(blocks, stages.items(), strict=True):
            # The text is measured in regular letters; bold ones are wider.
            heading = "\n".join(fitted_lines(f"{name}, {stage} training", 0.8 * 72 * WIDTH, 2))
            block.suptitle(heading, x=0.01, ha="left", fontsize=FONT_SIZE, fontweight="bold", parse_math=False)
            _draw_block(block, contexts, pixels, maps)
        return figure


def _draw_block(block: SubFigure, contexts: Sequence[str], pixels: Sequence[Tensor], maps: LayerMaps) -> None:
    grid = block.subplots(len(pixels), 2 + len(contexts), squeeze=False)
    # One scale for all gates of the block; otherwise a strong level and a weak one would look the same.
    largest = max((float(gates.abs().max()) for gates in maps.gates), default=0.0) or 1.0
    strongest = max((float(modulator.max()) for modulator in maps.modulators), default=0.0) or 1.0
    gate = magnitude = None
    for row, picture in zip(grid, pixels, strict=True):
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].imshow(picture.numpy())
    for row, gates in zip(grid, maps.gates, strict=False):
        for axes, level in zip(row[1:-1], gates, strict=True):
            gate = axes.imshow(level.numpy(), cmap=SIGNED, norm=Normalize(-largest, largest), interpolation="nearest")
    for row, modulator in zip(grid, maps.modulators, strict=True):
        magnitude = row[-1].imshow(modulator.numpy(), cmap=AMOUNT, norm=Normalize(0, strongest), interpolation="nearest")
    heads = ["image", *(f"{c}\n{share:.1%}" for c, share in zip(contexts, maps.shares, strict=True)), "modulator"]
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=FONT_SIZE - 2, parse_math=False)
    if gate is not None:
        bar = block.colorbar(gate, ax=grid[:, :-1], location="bottom", aspect=40, pad=0.02)
        bar.set_label("gate (%: share of the contribution)", fontsize=FONT_SIZE - 2)
        bar.ax.tick_params(labelsize=FONT_SIZE - 2)
    else:
        for row in grid:
            for axes in row[1:-1]:
                axes.text(0.5, 0.5, "no\ngates", ha="center", va="center", color=GREY, transform=axes.transAxes)
    if magnitude is not None:
        bar = block.colorbar(magnitude, ax=grid[:, -1], location="bottom", aspect=10, pad=0.02)
        bar.set_label("norm", fontsize=FONT_SIZE - 2)
        bar.ax.tick_params(labelsize=FONT_SIZE - 2)


def draw_confusion(counts: Tensor, classes: Sequence[str], split: str) -> Figure:
    """Draw a confusion matrix; colours are shares of each true class.

    Args:
        counts: int64 [K, K], true class by row, predicted class by column.
        classes: Names of the K classes.
        split: The images' split, for the title.
    """
    with plain_style("confusion"):
        number = len(classes)
        figure = Figure(figsize=(WIDTH, WIDTH if number > 4 else 3.4), layout="constrained")
        axes = figure.subplots()
        shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        image = axes.imshow(np.ma.masked_equal(shares, 0), cmap=AMOUNT, norm=Normalize(0, 1), interpolation="nearest")
        if number <= MOST_NAMES:
            size = FONT_SIZE if number <= MOST_COUNTS else 6
            width = LABEL * 0.6 if number <= MOST_COUNTS else LABEL
            lines = 2 if number <= MOST_COUNTS else 1
            names = ["\n".join(fitted_lines(name, width, lines)) for name in classes]
            flat = all(len(name) <= 3 for name in names)
            axes.set_xticks(range(number), names, rotation=0 if flat else 90, fontsize=size)
            axes.set_yticks(range(number), names, fontsize=size)
            for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
                text.set_parse_math(False)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if number <= MOST_COUNTS:
            for i, row in enumerate(counts.tolist()):
                for j, count in enumerate(row):
                    colour = "white" if shares[i, j] > 0.55 else "black"
                    axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=FONT_SIZE - 1)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted class" if number <= MOST_NAMES else "predicted class, by number")
        axes.set_ylabel("true class" if number <= MOST_NAMES else "true class, by number")
        right, total = int(counts.diagonal().sum()), int(counts.sum())
        _title(axes, f"{split}: {right} of {total} images right")
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class", aspect=30)
        return figure


def draw_sizes(metric: str, sides: Sequence[int], values: Sequence[float]) -> Figure:
    """Draw a metric by the side of the test images in pixels."""
    with plain_style("sizes"):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.plot(sides, [100 * value for value in values], color=BLUE, marker="o", markersize=4)
        if len(sides) <= 8:
            axes.set_xticks(sides)
        axes.set_xlabel("side of the test images in pixels")
        axes.grid(alpha=0.3)
        _title(axes, f"{metric} in %")
        return figure


def _square(row: float, column: float, side: float, colour: str, line: str) -> Rectangle:
    """The outline of a square of pixels; pixel centres are at whole numbers."""
    return Rectangle((column - 0.5, row - 0.5), side, side, fill=False, edgecolor=colour, linestyle=line, linewidth=1.5)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=FONT_SIZE, parse_math=False)
