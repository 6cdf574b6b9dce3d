"""Draw docs/walk.svg, the walk of a batch of images through a run: python docs/walk.py."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from necklace.plotting import COLOURS, GREY, plain_style, saved

NECKS = ("none", "SPP", "SPPF", "focal", "yours")
PART, CHOICE, END = "#E8EEF4", "#FCEBCB", "#FFFFFF"
MIDDLE, STEP = 3.0, 1.05


def main() -> None:
    """Write the drawing beside this file."""
    Path(__file__).with_name("walk.svg").write_bytes(saved(drawing(), "walk", "svg"))


def drawing() -> Figure:
    """The drawing."""
    with plain_style("walk"):
        figure = Figure(figsize=(9, 3))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 18), ylim=(0, 6))
        axes.axis("off")
        _box(axes, 0.2, MIDDLE, 2.4, ("images", "[B, 3, H, W]"), END)
        _arrow(axes, (2.6, MIDDLE), (3.5, MIDDLE))
        _box(axes, 3.5, MIDDLE, 2.8, ("backbone", "[B, C, h, w]"), PART)
        for number, name in enumerate(NECKS):
            y = MIDDLE + STEP * (2 - number)
            _arrow(axes, (6.3, MIDDLE), (8.0, y))
            _box(axes, 8.0, y, 2.2, (name,), CHOICE)
            _arrow(axes, (10.2, y), (11.9, MIDDLE))
        _box(axes, 11.9, MIDDLE, 2.1, ("head", "[B, K]"), PART)
        _arrow(axes, (14.0, MIDDLE), (14.9, MIDDLE))
        _box(axes, 14.9, MIDDLE, 2.9, ("task", "loss, metrics"), END)
        axes.text(9.1, 5.78, "neck: the part that differs", ha="center", va="center", color=GREY)
        equal = "Equal for one seed: the backbone's weights at step 0, the batches, their order, the augmentations."
        axes.text(9.0, 0.2, equal, ha="center", va="center", color=GREY)
        return figure


def _box(axes: Axes, left: float, y: float, width: float, lines: tuple[str, ...], colour: str) -> None:
    height = 0.75 * len(lines)
    shape = "round,pad=0,rounding_size=0.15"
    axes.add_patch(
        FancyBboxPatch((left, y - height / 2), width, height, boxstyle=shape, facecolor=colour, edgecolor=COLOURS[0])
    )
    for number, line in enumerate(lines):
        at = y + 0.6 * ((len(lines) - 1) / 2 - number)
        size, ink = (12, COLOURS[0]) if number == 0 else (9, GREY)
        axes.text(left + width / 2, at, line, ha="center", va="center", fontsize=size, color=ink)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, color=GREY))


if __name__ == "__main__":
    main()
