"""Names in scripts that matplotlib's own font lacks; warnings, such as of a missing glyph, are errors here."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from necklace import plotting
from necklace.diagnostics.plots import draw_confusion
from necklace.plotting import drawable, fitted_lines, saved, text_width

CLASSES = ["猫", "犬と猫", "🐶", "👩‍🚀", "고양이", "кот", "plain"]


def forget() -> None:
    for cached in (plotting._fonts, plotting._characters, plotting._advance):
        cached.cache_clear()
    plotting._missing.clear()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has none of the fonts."""
    monkeypatch.setattr(plotting, "FALLBACK", ())
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[None]:
    """A machine that has a font of the list, in which each character of CLASSES is a black square."""
    characters = sorted({ord(letter) for name in CLASSES for letter in name if ord(letter) > 0x2000})
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "block"])
    builder.setupCharacterMap(dict.fromkeys(characters, "block"))
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "block": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "block": (1000, 100)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "WenQuanYi Zen Hei", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(tmp_path / "blocks.ttf")
    known = list(fontManager.ttflist)
    fontManager.addfont(tmp_path / "blocks.ttf")
    forget()
    yield
    fontManager.ttflist[:] = known
    forget()


def confusion() -> bytes:
    return saved(draw_confusion(torch.eye(len(CLASSES), dtype=torch.int64), CLASSES, "test"), "confusion", "png")


@pytest.mark.usefixtures("bare")
def test_where_no_font_has_a_character_its_code_point_is_drawn_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert confusion() == confusion()
        assert drawable("犬と猫 a") == "U+72AC U+3068 U+732B a"
    assert drawable("👩‍🚀") == "U+1F469 U+1F680"
    assert drawable("кот") == "кот"
    assert len({drawable(name) for name in CLASSES}) == len(CLASSES)
    (said,) = caplog.messages
    assert "Noto Sans CJK" in said
    assert "U+" in said


@pytest.mark.usefixtures("blocks")
def test_a_font_of_the_machine_draws_what_matplotlibs_own_lacks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert [drawable(name) for name in CLASSES] == CLASSES
        assert fitted_lines("猫猫猫猫猫猫", 3 * text_width("猫"), 4) == ["猫猫猫", "猫猫猫"]
        image = np.asarray(Image.open(io.BytesIO(confusion())).convert("L"))
    assert not caplog.messages
    assert text_width("猫") == pytest.approx(plotting.FONT_SIZE, rel=1e-4)
    # Squares of nine points at 200 dots an inch: no letter has so much black in one place.
    side = 16
    dark = np.lib.stride_tricks.sliding_window_view(image[:, :200] < 60, (side, side)).all((2, 3))
    assert dark.any()
