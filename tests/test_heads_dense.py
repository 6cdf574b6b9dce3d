import pytest
import torch

from necklace.heads import DenseHead

FEATURES = [torch.randn(2, 8, 15, 20), torch.randn(2, 12, 8, 10), torch.randn(2, 6, 4, 5)]


def test_points_boxes_and_scores_of_every_level() -> None:
    head = DenseHead([8, 12, 6], 3, [8, 16, 32], width=16).eval()
    outputs = head(FEATURES)
    count = 15 * 20 + 8 * 10 + 4 * 5
    assert outputs.scores.shape == (2, count, 3)
    assert outputs.boxes.shape == (2, count, 4)
    assert outputs.strides.tolist() == [8.0] * 300 + [16.0] * 80 + [32.0] * 20
    assert outputs.points[[0, 1, 20, 300, 379, 399]].tolist() == [[4, 4], [12, 4], [4, 12], [8, 8], [152, 120], [144, 112]]
    # Before the first step every class has a score of 0.01 at every point, and its box reaches two steps of the map.
    torch.testing.assert_close(outputs.scores.sigmoid(), torch.full((2, count, 3), 0.01), rtol=0.5, atol=0)
    sizes = (outputs.boxes[..., 2:] - outputs.boxes[..., :2]) / outputs.strides[:, None]
    torch.testing.assert_close(sizes, torch.full((2, count, 2), 4.0), rtol=0.3, atol=0)
    centres = (outputs.boxes[..., 2:] + outputs.boxes[..., :2]) / 2
    assert ((centres - outputs.points).abs() / outputs.strides[:, None]).max() < 1


def test_a_map_says_at_its_place_what_the_outputs_say() -> None:
    head = DenseHead([8, 12, 6], 3, [8, 16, 32], width=16).eval()
    outputs, maps = head(FEATURES), head.maps(FEATURES)
    row, column = 3, 7
    raw = maps[1][1, :, row, column]
    place = 300 + row * 10 + column
    assert torch.equal(outputs.scores[1, place], raw[:3])
    away = raw[3:].exp() * 16
    x, y = (column + 0.5) * 16, (row + 0.5) * 16
    expected = torch.stack([x - away[0], y - away[1], x + away[2], y + away[3]])
    torch.testing.assert_close(outputs.boxes[1, place], expected)


def test_parameters_as_counted_by_hand() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    head = DenseHead([64, 128, 256], 3, [8, 16, 32])
    pyramid = (64 + 128 + 256) * 64 + 3 * 64 * 64 * 9 + 6 * 2 * 64
    assert count(head.pyramid) == pyramid == 140_032
    assert count(head) - pyramid == 4 * 64 * 64 * 9 + 3 * 4 * 2 * 64 + 64 * 3 + 3 + 64 * 4 + 4 == 149_447
    one = DenseHead([64, 128, 256], 3, [8, 16, 32], levels=1, kernel=1)
    assert count(one) == 256 * 64 + 2 * 64 + 4 * 64 * 64 + 4 * 2 * 64 + 64 * 3 + 3 + 64 * 4 + 4
    assert one.strides == (32,)
    assert one(FEATURES[:2] + [torch.randn(2, 256, 4, 5)]).scores.shape == (2, 20, 3)


def test_each_level_has_statistics_of_its_own() -> None:
    head = DenseHead([8, 12, 6], 3, [8, 16, 32], width=16).train()
    head([FEATURES[0], 5 * FEATURES[1], 25 * FEATURES[2]])
    means = [norms[0].running_mean for norms in head.class_tower.norms]  # pyright: ignore
    assert not torch.equal(means[0], means[1])
    assert not torch.equal(means[1], means[2])
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in head.modules())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": 4}, r"head\.levels=4: the backbone hands out 3 maps, at stride 8, 16, 32"),
        ({"levels": 0}, r"head\.levels=0: must be at least 1"),
        ({"kernel": 2}, r"head\.kernel=2: must be odd"),
        ({"width": 0}, r"head\.width=0"),
    ],
)
def test_a_wrong_option_is_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DenseHead([8, 12, 6], 3, [8, 16, 32], **options)
