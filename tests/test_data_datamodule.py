import inspect
from dataclasses import replace

import pytest
import torch

from necklace.data.augment import Augmentation
from necklace.data.boxes import Boxes, Targets
from necklace.data.datamodule import DataModule
from necklace.data.fitting import OTHER_OPTIONS
from necklace.data.glyphs import Glyphs
from necklace.data.sizes import Fixed
from necklace.data.splits import read_splits
from tests.test_data_splits import Toy


def module(counts=(40, 20), **options) -> DataModule:
    settings = {"sizes": Fixed(5), "batch_size": 8, "seed": 0, "augment": Augmentation()} | options
    return DataModule(read_splits(Toy(list(counts))), **settings)


def test_training_order_is_the_seeds_and_changes_with_the_epoch() -> None:
    def epoch_of(seed: int) -> list[list[int]]:
        return [batch.indices.tolist() for batch in module(seed=seed).train_dataloader()]

    first = epoch_of(0)
    assert epoch_of(0) == first
    assert epoch_of(1) != first
    assert [len(batch) for batch in first] == [8] * 6
    assert len({index for batch in first for index in batch}) == 48


def test_evaluation_is_complete_and_in_order() -> None:
    data = module()
    for loader, count in ((data.val_dataloader(), 6), (data.test_dataloader(), 7)):
        index = torch.cat([batch.indices for batch in loader])
        assert index.tolist() == list(range(count))
    labels = torch.cat([batch.labels for batch in data.test_dataloader()])
    assert torch.equal(labels, data.splits["test"].labels)


def test_a_batch_holds_the_images_of_its_index() -> None:
    data = module()
    for batch in data.train_dataloader():
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(image, data.splits["train"].image(index))


def test_prepare_augments_from_the_stream_of_its_step() -> None:
    data = module(augment=Augmentation(crop_padding=2, flip=True, cutout=2))
    batches = list(data.train_dataloader())
    once, again = data.prepare(batches[3], augment=True), data.prepare(batches[3], augment=True)
    assert torch.equal(once.images, again.images)
    moved = batches[3]._replace(step=torch.tensor([0, 4, 0]))
    assert not torch.equal(data.prepare(moved, augment=True).images, once.images)
    plain = data.prepare(batches[3], augment=False).images
    assert torch.allclose(plain, (batches[3].images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25, atol=1e-6)


def test_images_of_every_size_come_out_at_one() -> None:
    data = DataModule(
        read_splits(Glyphs(train=40, test=12)), sizes=Fixed([24, 32]), batch_size=4, seed=0, augment=Augmentation()
    )
    assert next(iter(data.train_dataloader())).images.shape == (4, 24, 32, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 55}, "larger than the training split of 54"),
    ],
)
def test_a_wrong_option_is_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=r"must|larger") as error:
        module(**options)
    assert words in str(error.value)


def test_a_sample_is_spread_over_training_images_and_not_augmented() -> None:
    data = module(augment=Augmentation(crop_padding=2, flip=True))
    train = data.splits["train"]
    images = torch.cat(list(data.sample(5)))
    expected = torch.stack([train.image(index) for index in (0, 13, 26, 40, 53)]).permute(0, 3, 1, 2)
    assert len(train) == 54
    torch.testing.assert_close(images, (expected / 255 - 0.5) / 0.25)
    assert torch.cat(list(data.sample(1000))).shape == (54, 3, 5, 5)


class Boxed(Toy):
    """Toy images with a box of each size, and every fifth without."""

    def split(self, name):
        images = super().split(name)
        if images is None:
            return None
        image = torch.tensor([index for index in range(len(images)) if index % 5]).numpy()
        corners = torch.tensor([[1, 2, 2 + index % 3, 4] for index in image.tolist()]).numpy()
        boxes = Boxes.build(corners, 0 * image + 1, 0 * image, image, len(images))
        return replace(images, labels=boxes.labels(2), boxes=boxes)


def test_a_batch_of_images_with_boxes_has_targets_in_its_own_pixels() -> None:
    splits = read_splits(Boxed([40, 20]))
    data = DataModule(splits, sizes=Fixed([10, 20]), batch_size=8, seed=0, augment=Augmentation(flip=True))
    train = splits.images["train"]
    assert train.boxes is not None
    seen = 0
    for batch in data.train_dataloader():
        targets = batch.labels
        assert isinstance(targets, Targets)
        assert targets.count == len(batch.images)
        for place, index in enumerate(batch.indices.tolist()):
            stored = train.boxes.of(index)[0]
            height, width = train.shapes[index].tolist()
            scale = torch.tensor([20 / width, 10 / height]).repeat(2)
            assert torch.allclose(targets.boxes[targets.image == place], stored * scale)
            seen += len(stored)
        plain, moved = data.prepare(batch, augment=False), data.prepare(batch, augment=True)
        assert torch.equal(plain.labels.boxes, targets.boxes)
        assert not torch.equal(moved.labels.boxes, targets.boxes)
        assert torch.equal(moved.labels.boxes[:, 1::2], targets.boxes[:, 1::2])
    assert seen > 0.8 * len(train.boxes.classes)
    images = torch.cat([batch.labels.image + batch.indices[0] for batch in data.test_dataloader()])
    test = splits.images["test"].boxes
    assert test is not None
    assert images.tolist() == test.image.tolist()


def test_reflection_at_the_border_is_refused_where_images_have_boxes() -> None:
    with pytest.raises(ValueError, match=r"data\.augment\.crop_padding=2: must be 0 where images have boxes"):
        DataModule(read_splits(Boxed([40, 20])), Fixed(5), 8, 0, Augmentation(crop_padding=2))


def test_a_mosaic_is_refused_where_images_have_no_boxes() -> None:
    with pytest.raises(ValueError, match=r"data\.augment\.mosaic=0\.5: must be 0 where images have no boxes"):
        module(augment=Augmentation(mosaic=0.5))
    DataModule(read_splits(Boxed([40, 20])), Fixed(5), 8, 0, Augmentation(mosaic=0.5))


def test_a_plan_knows_the_options_of_the_batches():
    given = {"self", "splits", "sizes", "batch_size", "seed", "augment", "augment_seed", "sampler"}
    assert set(inspect.signature(DataModule.__init__).parameters) == given | set(OTHER_OPTIONS)


def test_alternate_flips_each_image_in_every_other_epoch() -> None:
    augment = Augmentation(flip="alternate")
    data = DataModule(read_splits(Glyphs(train=40, test=12)), sizes=Fixed(24), batch_size=12, seed=0, augment=augment)
    (first, *_) = data.train_dataloader()
    plain = data.prepare(first, augment=False).images
    shown = [data.prepare(first._replace(step=(epoch, 0, 0)), augment=True).images for epoch in range(4)]
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    turned = [not torch.equal(own, at_rest) for own, at_rest in zip(shown[0], plain, strict=True)]
    assert 0 < sum(turned) < len(turned)
    for now, later, own in zip(shown[0], shown[1], plain, strict=True):
        assert {tuple(now.flatten().tolist()), tuple(later.flatten().tolist())} == {
            tuple(own.flatten().tolist()),
            tuple(own.flip(2).flatten().tolist()),
        }
