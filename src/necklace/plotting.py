"""Shared parts of all pictures: style, colours, fitted texts, and files without a date."""

import io
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D

log = logging.getLogger(__name__)

# Fonts with characters that matplotlib's own lacks; only such with outlines, as it draws no bitmaps.
FALLBACK = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans CJK HK"),
    *("Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Noto Sans TC", "Source Han Sans SC", "Source Han Sans"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAexGothic", "IPAGothic", "TakaoPGothic"),
    *("NanumGothic", "UnDotum", "AR PL UMing CN", "AR PL UKai CN", "Unifont"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("PingFang SC", "Hiragino Sans", "Heiti TC", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Noto Emoji", "Symbola", "Segoe UI Emoji", "Segoe UI Symbol", "OpenSansEmoji", "EmojiOne"),
    *("Noto Sans", "Noto Sans Thai", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "FreeSans", "FreeSerif"),
)
_missing: set[str] = set()

# Okabe and Ito's palette, distinguishable with every kind of colour vision; without its yellow, too faint for a thin line.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX<>ph*"
GREY = "#767676"

# Narrow, so that the text stays readable when a phone shrinks the figure to its width.
WIDTH = 4.6
FONT_SIZE = 9
# Width in points that a text may take: a row's name beside a plot, or a name in a legend.
LABEL = 105
LEGEND = 72 * WIDTH - 48
# More rows could not be distinguished in a picture; it says how many it draws, and its data has all of them.
MOST_ROWS = 40


@contextmanager
def plain_style(name: str) -> Iterator[None]:
    """Matplotlib's defaults with a few changes: a user's configuration must not change a committed picture."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # A font after the first draws only what those before it cannot.
        families = ["sans-serif", *list(_fonts())[1:]]
        matplotlib.rcParams |= {
            "font.family": families,
            "font.size": FONT_SIZE,
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": name,
        }
        yield


def saved(figure: Figure, name: str, kind: str) -> bytes:
    """The file content of a figure that was drawn in `plain_style`; it holds no date and no version.

    Args:
        figure: The figure.
        name: Its name; an SVG's ids are derived from it.
        kind: `png` or `svg`.
    """
    # Dates and versions would differ between two files of the same data.
    omitted = {"png": ["Software"], "svg": ["Date", "Creator", "Format", "Type"]}[kind]
    file = io.BytesIO()
    with plain_style(name):
        figure.savefig(file, format=kind, dpi=200, metadata=dict.fromkeys(omitted))
    return file.getvalue()


def plain_axes(height: float) -> tuple[Figure, Axes]:
    """A figure of the common width with one pair of axes; height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def row_axes(names: Sequence[str], notes: Sequence[str], more: float) -> tuple[Figure, Axes, list[float]]:
    """A figure with a row for each name and one pair of axes.

    Args:
        names: The rows' names, drawn beside them in up to three lines.
        notes: A line below each name, or an empty text.
        more: Inches below the rows.

    Returns:
        The figure, its axes, and the middle of each row, in inches.
    """
    labels = [fitted_lines(name, LABEL, 3) + ([note] if note else []) for name, note in zip(names, notes, strict=True)]
    heights = [0.18 + 0.14 * max(2, len(lines)) for lines in labels]  # a row is as high as its label
    places = [sum(heights[:number]) + height / 2 for number, height in enumerate(heights)]
    figure, axes = plain_axes(more + sum(heights))
    axes.set_ylim(sum(heights), 0)
    axes.set_yticks(places, ["\n".join(lines) for lines in labels])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a $ in a name is a $
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    return figure, axes, places


def set_title(axes: Axes, text: str) -> None:
    """Label the vertical axis above it: beside it, the label would take room and be hard to read."""
    axes.set_title(text, loc="left", fontsize=FONT_SIZE, parse_math=False)


def add_legend(figure: Figure, entries: list[tuple[Artist, list[str]]], rows: int) -> None:
    """Put the legend below the axes: beside them there is no room for it on a phone."""
    if rows > MOST_ROWS:
        entries = [*entries, (Line2D([], [], linestyle=""), [f"{MOST_ROWS} of {rows} rows are drawn"])]
    narrow = all(len(lines) == 1 and text_width(lines[0]) < LEGEND / 2 - 24 for _, lines in entries)
    columns = 2 if narrow and len(entries) > 4 else 1
    # The texts are set afterwards: matplotlib leaves out a label that starts with an underscore.
    signs = [sign for sign, _ in entries]
    legend = figure.legend(signs, [str(i) for i in range(len(signs))], loc="outside lower left", ncols=columns)
    for text, (_, lines) in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text("\n".join(lines))
    extra = sum(len(lines) for _, lines in entries) - len(entries)
    figure.set_figheight(figure.get_figheight() + 0.15 * extra)


def fitted_lines(text: str, width: float, most: int) -> list[str]:
    """Break a name into at most `most` lines of at most `width` points; a longer one loses its middle."""
    whole = drawable(text)
    lines, kept = _wrapped(whole, width), len(whole)
    while len(lines) > most:
        kept -= 1
        lines = _wrapped(f"{whole[: kept - kept // 2]}…{whole[len(whole) - kept // 2 :]}", width)
    return lines


def drawable(text: str) -> str:
    """A text of one line, in characters that a font here can draw; others become their code points, such as `U+732B`."""
    words = []
    for word in text.split():
        parts: list[str] = []
        for character in word:
            joins = unicodedata.category(character) in ("Cf", "Mn")  # or varies what stands before it
            if _font_of(character) and not (joins and parts and parts[-1].startswith(" U+")):
                parts.append(character)
            elif not joins:
                parts.append(f" U+{ord(character):04X} ")
                _say_missing(character)
        words.append("".join(parts))
    return " ".join(" ".join(words).split())


def _wrapped(text: str, width: float) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and text_width(f"{line} {word}") > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while text_width(line) > width:
            fits = max(1, next(end for end in range(len(line)) if text_width(line[: end + 1]) > width))
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line]


def text_width(text: str) -> float:
    """Width of a line in points at `FONT_SIZE`."""
    return sum(_advance(character) for character in text)


@lru_cache(maxsize=4096)
def _advance(character: str) -> float:
    """Points from the start of a character to the start of the next one."""
    font = _font_of(character) or _fonts()["DejaVu Sans"]
    font.set_size(FONT_SIZE, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 2**16


def _font_of(character: str) -> FT2Font | None:
    """The first font that can draw a character."""
    return next((font for name, font in _fonts().items() if ord(character) in _characters(name)), None)


@lru_cache
def _characters(name: str) -> frozenset[int]:
    """Code points that a font can draw."""
    return frozenset(_fonts()[name].get_charmap())


@lru_cache(maxsize=1)
def _fonts() -> dict[str, FT2Font]:
    """Family to font: matplotlib's own, the same everywhere, then those of `FALLBACK` that are on this machine."""
    present = {entry.name for entry in fontManager.ttflist}
    names = ["DejaVu Sans", *(name for name in FALLBACK if name in present)]
    return {name: get_font(findfont(FontProperties(family=name))) for name in names}


def _say_missing(character: str) -> None:
    """Say once that a font is missing; the pictures are drawn all the same."""
    if not _missing:
        log.warning(
            f"pictures: no font here draws {character!a}, so its code point U+{ord(character):04X} stands for it, and likewise "
            "for others; Noto Sans CJK draws Chinese, Japanese and Korean, and Noto Emoji draws emoji"
        )
    _missing.add(character)
