import pytest
import torch

from necklace.data.augment import Augmentation
from necklace.data.datamodule import DataModule, split_indices
from necklace.data.glyphs import Glyphs
from necklace.data.images import ImageSet
from necklace.data.sizes import Fixed


class Toy:
    """A source of one-colour images whose label is known from their colour."""

    skipped: tuple[tuple[str, str], ...] = ()

    def __init__(self, counts: list[int], test: int = 7, side: int = 5) -> None:
        self.classes = tuple(f"class{i}" for i in range(len(counts)))
        self.counts, self.test, self.side = counts, test, side

    def split(self, name: str) -> ImageSet | None:
        if name == "val":
            return None
        labels = torch.tensor([i for i, n in enumerate(self.counts) for _ in range(n)])
        if name == "test":
            labels = torch.arange(self.test) % len(self.counts)
        count, side = len(labels), self.side
        values = torch.arange(count).remainder(256).to(torch.uint8)
        return ImageSet(
            pixels=values.repeat_interleave(side * side * 3),
            shapes=torch.full((count, 2), side),
            labels=labels,
            names=tuple(f"{name}/{i}" for i in range(count)),
        )


def module(counts=(40, 20), **options) -> DataModule:
    settings = {"sizes": Fixed(5), "batch_size": 8, "seed": 0, "augment": Augmentation()} | options
    return DataModule(Toy(list(counts)), **settings)


def test_val_is_a_share_of_each_class_whatever_the_seed() -> None:
    for seed in (0, 1):
        data = module(seed=seed)
        assert torch.bincount(data.splits["val"].labels).tolist() == [4, 2]
        assert torch.bincount(data.splits["train"].labels).tolist() == [36, 18]
        names = [set(data.splits[name].names) for name in ("train", "val")]
        assert not names[0] & names[1]
        assert len(names[0] | names[1]) == 60
    assert module(seed=0).digest == module(seed=1).digest


def test_split_takes_one_image_of_a_small_class_and_none_of_a_single_one() -> None:
    labels = torch.tensor([0] * 3 + [1] + [2] * 2)
    kept, held_out = split_indices(labels, 0.1)
    assert sorted(labels[held_out].tolist()) == [0, 2]
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(6))


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
    data = DataModule(Glyphs(train=40, test=12), sizes=Fixed([24, 32]), batch_size=4, seed=0, augment=Augmentation())
    assert next(iter(data.train_dataloader())).images.shape == (4, 24, 32, 3)


def test_limits_keep_the_classes_in_proportion() -> None:
    data = module(counts=(400, 200), train_images=60, test_images=4)
    labels = torch.cat([data.splits["train"].labels, data.splits["val"].labels])
    assert torch.bincount(labels).tolist() == [40, 20]
    assert torch.bincount(data.splits["test"].labels).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 55}, "larger than the training split of 54"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0"),
        ({"train_images": 61}, "data.train_images=61"),
        ({"test_images": 0}, "data.test_images=0"),
    ],
)
def test_a_wrong_option_is_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=r"must|larger") as error:
        module(**options)
    assert words in str(error.value)
