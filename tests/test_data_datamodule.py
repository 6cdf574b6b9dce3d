import inspect

import pytest
import torch

from necklace.data.augment import Augmentation
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


def test_a_plan_knows_the_options_of_the_batches():
    given = {"self", "splits", "sizes", "batch_size", "seed", "augment", "sampler"}
    assert set(inspect.signature(DataModule.__init__).parameters) == given | set(OTHER_OPTIONS)
