"""The premises of the diagnostic: where a head reads, and whether it can join by itself."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from necklace.build import datamodule_of, model_of
from necklace.data.datamodule import DataModule
from necklace.heads import Corner, Flatten, Gap, Pyramid
from necklace.model import Model
from necklace.run.checks import check_head, check_read_out, premise_note
from tests.conftest import spec_of

CONTEXT = ["data=context", "data.source.train=64", "data.source.test=16", "data.cache=null", "backbone.width=4", "data.size=48"]
CONTEXT += ["batch_size=16"]


def parts(*overrides: str) -> tuple[DataModule, Model]:
    spec = spec_of([*CONTEXT, *overrides])
    data = datamodule_of(spec.resolved)
    return data, model_of(spec.config, data)


class Hidden(nn.Sequential):
    """A hidden layer with BatchNorm after the average."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)
        )


def test_a_head_that_is_not_linear_is_named() -> None:
    data, model = parts()
    heads = {"gap": Gap(16, 4), "flatten": Flatten(16, 4, (12, 12))}
    others = {"hidden": Flatten(16, 4, (12, 12), hidden=8), "maximum": Pyramid(16, 4, bins=[1]), "own": Hidden(16)}
    state = torch.random.get_rng_state()
    for name, head in {**heads, **others}.items():
        model.head = head.train()
        note = premise_note(data, model)
        assert (note is None) == (name in heads), name
        assert note is None or "not linear" in note
        assert head.training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("option", "value"), [("mirror", True), ("shift", 2)])
def test_boxes_in_other_views_are_not_averaged(option: str, value: object) -> None:
    dense, task = SimpleNamespace(dense=True, mirror=False, shift=0), SimpleNamespace(dense=True)
    check_head(dense, task)  # pyright: ignore[reportArgumentType]
    setattr(dense, option, value)
    with pytest.raises(ValueError, match=rf"{option}={str(value).lower()}: boxes in \w+ images are not averaged"):
        check_head(dense, task)  # pyright: ignore[reportArgumentType]


def test_transport_is_read_in_its_corner() -> None:
    data, model = parts("data.source.grade=transport", "head=corner")
    check_read_out(data, model)
    assert premise_note(data, model) is None
    for head in (Gap(16, 4), Flatten(16, 4, (12, 12)), Corner(16, 4, stride=4, side=13), Pyramid(16, 4, bins=[2])):
        model.head = head
        with pytest.raises(ValueError, match=r"within 12 pixels of the top left corner, .* take head=corner"):
            check_read_out(data, model)


def test_other_data_have_neither() -> None:
    data, model = parts("head=pyramid")
    check_read_out(data, model)
    data.min_gap = None
    assert premise_note(data, model) is None
