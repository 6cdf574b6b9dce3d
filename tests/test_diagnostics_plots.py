import io

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from necklace.diagnostics.plots import LayerMaps, draw_confusion, draw_gates, draw_receptive_fields, draw_sizes
from necklace.diagnostics.receptive_field import spread
from necklace.plotting import COLOURS, saved

HOSTILE = ["<script>alert(1)</script>", "../../etc", "😀🐶", "x" * 300, r"$\frac{$", "\udcff", "_hidden", "two\nlines", ""]


def pixels(figure: Figure) -> np.ndarray:
    image = Image.open(io.BytesIO(saved(figure, "any", "png"))).convert("RGB")
    assert image.width == 920
    return np.asarray(image)


def has(image: np.ndarray, colour: str) -> bool:
    return bool((image == [int(colour[k : k + 2], 16) for k in (1, 3, 5)]).all(-1).any())


def drawn(axes: Axes) -> np.ma.MaskedArray:
    """What the axes' image shows; masked where it is left white."""
    shown = axes.images[0].get_array()
    assert isinstance(shown, np.ma.MaskedArray)
    return shown


def maps(scale: float) -> LayerMaps:
    gates = scale * torch.linspace(-1, 1, 2 * 3 * 4).reshape(2, 3, 4)
    return LayerMaps([0.25, 0.75], [gates, gates], [torch.rand(3, 4), torch.rand(3, 4)])


@pytest.mark.parametrize("count", [2, 9, 30, 60])
def test_a_confusion_matrix_of_hostile_names_is_drawn_the_same_twice(count: int) -> None:
    classes = [(HOSTILE * 7)[k] + "a" * (k // len(HOSTILE)) for k in range(count)]
    counts = torch.randint(0, 50, (count, count), generator=torch.Generator().manual_seed(0))
    first, second = (saved(draw_confusion(counts, classes, "test"), "confusion", "png") for _ in range(2))
    assert first == second
    image = Image.open(io.BytesIO(first))
    assert image.width == 920
    assert image.height <= 1000


def test_a_class_without_images_is_drawn_and_the_title_counts() -> None:
    figure = draw_confusion(torch.tensor([[3, 1], [0, 0]]), ["a", "b"], "val")
    (axes, _) = figure.axes
    assert axes.get_title(loc="left") == "val: 3 of 4 images right"
    assert sorted(text.get_text() for text in axes.texts) == ["0", "0", "1", "3"]
    assert drawn(axes).filled(0).tolist() == [[0.75, 0.25], [0, 0]]


def test_receptive_fields_show_their_square_the_theory_and_exact_zeros() -> None:
    weights = torch.zeros(20, 20, dtype=torch.double)
    weights[5:14, 5:14] = 1
    weights[9, 9] = 1e5
    everywhere = weights + 1e-9
    fields = {
        ("backbone", "before"): (weights, spread(weights)),
        ("backbone+neck", "before"): (everywhere, spread(everywhere)),
        ("backbone", "after"): (weights * 0, None),
        ("backbone+neck", "after"): (everywhere, spread(everywhere)),
    }
    figure = draw_receptive_fields(fields, 9)
    panels = figure.axes[:4]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["backbone: radius 0.5", "backbone+neck: radius 0.5", "backbone: no gradient", "backbone+neck: radius 0.5"]
    theory, square = panels[0].patches
    assert theory.get_bbox().bounds == (4.5, 4.5, 9, 9)  # pyright: ignore[reportAttributeAccessIssue]
    assert square.get_bbox().bounds == (8.5, 8.5, 1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    assert drawn(panels[0]).count() == 81
    assert drawn(panels[1]).count() == 400
    assert has(pixels(figure), COLOURS[4])


def test_a_field_without_limit_draws_no_theory() -> None:
    weights = torch.ones(8, 8, dtype=torch.double)
    figure = draw_receptive_fields({("backbone", "after"): (weights, spread(weights))}, None)
    assert len(figure.axes[0].patches) == 1
    pixels(figure)


def test_gates_of_one_block_share_a_scale_and_blocks_do_not() -> None:
    images = [torch.zeros(6, 8, 3, dtype=torch.uint8)] * 2
    figure = draw_gates("neck", ["level1 k3", "global"], images, {"before": maps(1.0), "after": maps(5.0)})
    for block, scale in zip(figure.subfigs, (1, 5), strict=True):
        limits = [axes.images[0].get_clim() for axes in block.axes if axes.images]
        # A row: the image, two gates and the modulator; the colour bars hold no image.
        assert limits[1:3] == limits[5:7] == [(-scale, scale)] * 2
    heads = [axes.get_title() for axes in figure.subfigs[0].axes[:4]]
    assert heads == ["image", "level1 k3\n25.0%", "global\n75.0%", "modulator"]
    pixels(figure)


def test_a_long_layer_name_stays_in_the_picture() -> None:
    maps = LayerMaps([0.5, 0.3, 0.2], [torch.rand(3, 8, 8)], [torch.rand(8, 8)])
    name = "backbone.network.layers_3.blocks.10.modulation.of_a_user_with_$long$_names"
    figure = draw_gates(name, ["level1 k3", "level2 k5", "global"], [torch.zeros(8, 8, 3, dtype=torch.uint8)], {"before": maps})
    figure.draw_without_rendering()
    (heading,) = figure.subfigs[0].texts
    assert "$long$" in heading.get_text().replace("\n", "")
    assert heading.get_window_extent().x1 <= figure.bbox.x1


def test_a_layer_without_gates_says_so() -> None:
    images = [torch.zeros(6, 8, 3, dtype=torch.uint8)] * 2
    ungated = LayerMaps([0.5, 0.5], [], [torch.zeros(3, 4)] * 2)
    figure = draw_gates("neck", ["level1 k3", "global"], images, {"after": ungated})
    said = [text.get_text() for axes in figure.subfigs[0].axes for text in axes.texts]
    assert said == ["no\ngates"] * 4
    pixels(figure)


def test_sizes_are_drawn_in_percent() -> None:
    figure = draw_sizes("test/acc", [16, 24], [0.25, 0.5])
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[16, 25], [24, 50]]  # pyright: ignore[reportAttributeAccessIssue]
    assert axes.get_title(loc="left") == "test/acc in %"
    pixels(figure)
