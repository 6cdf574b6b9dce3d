import json
from dataclasses import dataclass

import torch

from necklace.data.images import ImageSet
from necklace.data.packing import _packed, _unpacked, packed, unpacked


def test_a_set_comes_back_from_json_as_it_was() -> None:
    images = [torch.arange(18, dtype=torch.uint8).view(2, 3, 3), torch.arange(3, dtype=torch.uint8).view(1, 1, 3)]
    for labels in ([4, 7], torch.tensor([[1, 0, -1], [0, 0, 1]], dtype=torch.int8)):
        first = ImageSet.build(images, labels, ["a/\udcff.png", "ü/2"])
        again = ImageSet(first.pixels, **unpacked(json.loads(json.dumps(packed(first)))))
        assert again.digest() == first.digest()
        assert (again.labels.dtype, again.names) == (first.labels.dtype, first.names)
    empty = ImageSet.build([], torch.empty(0, 3, dtype=torch.int8), [])
    assert ImageSet(empty.pixels, **unpacked(json.loads(json.dumps(packed(empty))))).digest() == empty.digest()


def test_where_the_pixels_are_is_not_packed() -> None:
    whole = ImageSet.build([torch.zeros(2, 2, 3, dtype=torch.uint8)] * 2, [0, 1], ["a", "b"])
    part = ImageSet(whole.pixels, whole.shapes, whole.labels, whole.names, torch.tensor([0, 12]))
    assert packed(part) == packed(whole)


@dataclass(frozen=True)
class Things:
    """What an image shows, as a field of a set may have it."""

    places: torch.Tensor
    names: tuple[str, ...]
    more: "Things | None" = None


def test_a_field_may_be_a_set_of_tensors_itself() -> None:
    places = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    things = Things(places, ("a", "b"), Things(torch.empty(0, 4), ()))
    again = _unpacked(json.loads(json.dumps(_packed(things))), Things | None)
    assert torch.equal(again.places, places)
    assert (again.names, again.more.places.shape, again.more.more) == (("a", "b"), (0, 4), None)
    assert _unpacked(_packed(None), Things | None) is None
