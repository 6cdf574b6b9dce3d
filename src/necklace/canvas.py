"""What all pictures share: their style, their colours, texts that fit, and files without a date."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font

# Okabe and Ito's palette, told apart with every kind of colour vision; without its yellow, which a thin line on white loses.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX<>ph*"
GREY = "#767676"

# Narrow, so that the text is still read where a phone shrinks the figure to its width.
WIDTH = 4.6
FONT_SIZE = 9
# Points that a text may take: a row's name beside a plot, or in a legend beside its sign.
LABEL = 105
LEGEND = 72 * WIDTH - 48


@contextmanager
def plain_style(name: str) -> Iterator[None]:
    """Matplotlib's own defaults and these few: a user's configuration must not change a committed picture."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams |= {"font.size": FONT_SIZE, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": name}
        yield


def saved(figure: Figure, name: str, kind: str) -> bytes:
    """A figure that was drawn in `plain_style` as the content of a file, with nothing in it that another day would change.

    Args:
        figure: The figure.
        name: Its name, from which an SVG's ids are made.
        kind: `png` or `svg`.
    """
    # Dates and versions would differ between two files of the same data.
    unsaid = {"png": ["Software"], "svg": ["Date", "Creator", "Format", "Type"]}[kind]
    file = io.BytesIO()
    with plain_style(name):
        figure.savefig(file, format=kind, dpi=200, metadata=dict.fromkeys(unsaid))
    return file.getvalue()


def fitted_lines(text: str, width: float, most: int) -> list[str]:
    """Break a name into at most `most` lines of at most `width` points; what is too long loses its middle."""
    known = _characters()
    whole = "".join(character if ord(character) in known else "□" for character in " ".join(text.split()))
    lines, kept = _wrapped(whole, width), len(whole)
    while len(lines) > most:
        kept -= 1
        lines = _wrapped(f"{whole[: kept - kept // 2]}…{whole[len(whole) - kept // 2 :]}", width)
    return lines


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
    """Points that a line takes at `FONT_SIZE`."""
    return sum(_advance(character) for character in text)


@lru_cache(maxsize=4096)
def _advance(character: str) -> float:
    """Points from the start of a character to the start of the next."""
    font = _font()
    font.set_size(FONT_SIZE, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 2**16


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    """Code points that the font can draw."""
    return frozenset(_font().get_charmap())


def _font() -> FT2Font:
    return get_font(findfont(FontProperties(family="DejaVu Sans")))  # matplotlib's own, the same everywhere
