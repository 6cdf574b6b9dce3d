from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from necklace.figures import draw_curves, draw_sizes
from necklace.table import read_cells


def test_curves_draw_a_line_for_each_run(train_cell: Callable, tmp_path: Path) -> None:
    train_cell("neck=none", "epochs=3")
    one = tmp_path / "one.png"
    draw_curves(read_cells(tmp_path), one)
    train_cell("neck=sppf", "epochs=3")
    two = tmp_path / "two.png"
    draw_curves(read_cells(tmp_path), two)
    with Image.open(one) as first, Image.open(two) as second:
        assert first.size == second.size
        orange = [(np.asarray(image.convert("RGB")) == (0xE6, 0x9F, 0x00)).all(-1).sum() for image in (first, second)]
    assert orange[0] == 0
    assert orange[1] > 50  # the second run's line


def test_a_metric_that_no_run_has_is_an_error(train_cell: Callable, tmp_path: Path) -> None:
    train_cell()
    with pytest.raises(ValueError, match="no run has the metric val/map"):
        draw_curves(read_cells(tmp_path), tmp_path / "x.png", "val/map")
    assert not (tmp_path / "x.png").exists()


def test_sizes_draw_the_figures_of_the_record(train_cell: Callable, tmp_path: Path) -> None:
    train_cell("neck=none")
    with pytest.raises(ValueError, match="no run has the metric test/acc by side"):
        draw_sizes(read_cells(tmp_path), tmp_path / "x.png")
    record, _ = train_cell("neck=sppf", "data.eval_sizes=[16,32]")
    draw_sizes(read_cells(tmp_path), tmp_path / "sizes.svg")
    assert {"test/acc@16", "test/acc@32"} <= record.figures.keys()
    # One line and its two markers: each marker is drawn as a use of one shape.
    assert (tmp_path / "sizes.svg").read_text().count("fill: #e69f00") >= 2
