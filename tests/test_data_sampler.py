from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.data.augment import Augmentation
from necklace.data.datamodule import DataModule
from necklace.data.sampler import Balanced, balanced_draw, check_sampler
from necklace.data.sizes import Fixed, Multiscale, Native, Sizes, Step
from necklace.data.splits import read_splits
from tests.test_data_splits import Toy

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=5)
ONE_SIZE: list[Sizes] = [Fixed(32), Multiscale([16, 24, 40], 32), Multiscale([24, 48], 32, per="epoch")]
SEEN = {"seed": st.integers(0, 3), "epoch": st.integers(0, 50)}


def labels_of(counts: list[int]) -> torch.Tensor:
    """Labels 0, 2, 4, ... (so that classes are missing), shuffled."""
    labels = torch.tensor([2 * label for label, count in enumerate(counts) for _ in range(count)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def images(steps: list[Step]) -> list[int]:
    return [index for step in steps for index in step.indices.tolist()]


@given(counts=COUNTS, count=st.integers(0, 130), **SEEN)
@settings(max_examples=150, deadline=None)
def test_each_class_is_drawn_equally_often_and_so_is_each_image_of_it(
    counts: list[int], count: int, seed: int, epoch: int
) -> None:
    labels = labels_of(counts)
    drawn = balanced_draw(labels, count, seed, epoch)
    assert len(drawn) == count
    of_class = Counter(labels[drawn].tolist())
    times = [of_class[2 * label] for label in range(len(counts))]
    assert sum(times) == count
    assert max(times) - min(times) <= 1
    of_image = Counter(drawn.tolist())
    for label in range(len(counts)):
        own = [of_image[index] for index in (labels == 2 * label).nonzero().flatten().tolist()]
        assert max(own) - min(own) <= 2  # 1 within a permutation, and the epoch may lie across two
    assert torch.equal(balanced_draw(labels.clone(), count, seed, epoch), drawn)


@given(counts=COUNTS, count=st.integers(1, 60), seed=st.integers(0, 3), epochs=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_over_epochs_no_image_is_drawn_more_often_than_another_of_its_class(
    counts: list[int], count: int, seed: int, epochs: int
) -> None:
    labels = labels_of(counts)
    total = Counter(index for epoch in range(epochs) for index in balanced_draw(labels, count, seed, epoch).tolist())
    of_class = []
    for label in range(len(counts)):
        own = [total[index] for index in (labels == 2 * label).nonzero().flatten().tolist()]
        assert max(own) - min(own) <= 1
        of_class.append(sum(own))
    assert sum(of_class) == epochs * count
    assert max(of_class) - min(of_class) <= 1


def test_what_is_drawn_changes_with_epoch_and_seed() -> None:
    labels = torch.tensor([0] * 95 + [1] * 5)
    draws = [tuple(sorted(balanced_draw(labels, 100, seed, epoch).tolist())) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(draws)) == 6


@given(sizes=st.sampled_from(ONE_SIZE), counts=COUNTS, batch_size=st.integers(1, 13), world_size=st.integers(1, 4), **SEEN)
@settings(max_examples=120, deadline=None)
def test_ranks_draw_together_what_one_draws(
    sizes: Sizes, counts: list[int], batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    labels = labels_of(counts)
    shapes = torch.full((len(labels), 2), 20)
    if batch_size < world_size or batch_size > len(labels):
        with pytest.raises(ValueError, match=f"^batch_size={batch_size}"):
            Balanced(sizes, labels).train_steps(shapes, batch_size, seed, epoch, 0, world_size)
        return
    alone = Balanced(sizes, labels).train_steps(shapes, batch_size, seed, epoch, 0, 1)
    ranks = [
        Balanced(sizes, labels).train_steps(shapes, batch_size, seed, epoch, rank, world_size) for rank in range(world_size)
    ]
    assert len(alone) == len(labels) // batch_size
    for step, shares in zip(alone, zip(*ranks, strict=True), strict=True):
        assert {(share.size, share.total) for share in shares} == {(step.size, step.total)}
        dealt = torch.full((step.total,), -1)
        for rank, share in enumerate(shares):
            dealt[rank::world_size] = share.indices
        assert torch.equal(dealt, step.indices)
    times = Counter(labels[torch.tensor(images(alone))].tolist())
    assert max(times.values()) - min(times.get(2 * label, 0) for label in range(len(counts))) <= 1


@given(
    shapes=st.lists(st.tuples(st.sampled_from([3, 8, 20]), st.sampled_from([8, 9, 30, 200])), min_size=8, max_size=70),
    rare=st.integers(1, 6),
    batch_size=st.integers(1, 13),
    world_size=st.integers(1, 4),
    **SEEN,
)
@settings(max_examples=200, deadline=None)
def test_native_sizes_keep_their_rules_and_the_number_of_steps(
    shapes: list[tuple[int, int]], rare: int, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    sizes, labels = Native(24, 8), torch.tensor([1] * rare + [0] * (len(shapes) - rare))
    stored = torch.tensor(shapes)
    plan = Balanced(sizes, labels)
    try:
        first = plan.train_steps(stored, batch_size, seed, 0, 0, world_size)
    except ValueError:  # no shape has enough images for a batch; then no epoch is planned
        assert batch_size < 2 * world_size or len(shapes) < 32 * world_size
        return
    plans = [plan.train_steps(stored, batch_size, seed, epoch, rank, world_size) for rank in range(world_size)]
    # Schedule and validation count on an equal number of steps in every epoch.
    assert {len(steps) for steps in plans} == {len(first)}
    for together in zip(*plans, strict=True):
        shares = [len(step.indices) for step in together]
        assert {(step.size, step.total) for step in together} == {(together[0].size, sum(shares))}
        assert max(shares) - min(shares) <= 1
        assert min(shares) >= (2 if together[0].size == (8, 8) else 1)
        assert sum(shares) <= batch_size
        chosen = torch.cat([step.indices for step in together])
        assert bool((sizes.native_shapes(stored)[chosen] == torch.tensor(together[0].size)).all())
    again = plan.train_steps(stored.clone(), batch_size, seed, epoch, world_size - 1, world_size)
    assert [step.indices.tolist() for step in again] == [step.indices.tolist() for step in plans[-1]]


def test_native_sizes_are_drawn_in_balance() -> None:
    """Every shape can be trained on here, so that all but the few steps too many are as drawn."""
    generator = torch.Generator().manual_seed(0)
    shapes = 8 * torch.randint(2, 6, (400, 2), generator=generator)
    labels = torch.tensor([0] * 380 + [1] * 20)
    seen: Counter[int] = Counter()
    for epoch in range(10):
        drawn = images(Balanced(Native(64, 8), labels).train_steps(shapes, 16, 0, epoch, 0, 1))
        assert 370 <= len(drawn) <= 400
        rare = int(labels[torch.tensor(drawn)].sum())
        assert abs(rare - len(drawn) / 2) <= 15
        seen.update(drawn)
    assert set(seen) == set(range(400))


def test_the_data_module_draws_in_balance_only_where_it_is_asked_to() -> None:
    splits = read_splits(Toy([95, 5, 20]))

    def epoch_of(**options: str) -> list[int]:
        data = DataModule(splits, Fixed(5), 6, 0, Augmentation(), **options)  # pyright: ignore[reportArgumentType]
        return [index for batch in data.train_dataloader() for index in batch.indices.tolist()]

    labels = splits.images["train"].labels
    assert epoch_of(sampler="shuffle") == epoch_of()
    assert len(set(epoch_of())) == len(epoch_of()) == 102
    assert labels[epoch_of(sampler="balanced")].bincount().tolist() == [34, 34, 34]
    counts = DataModule(splits, Fixed(5), 6, 0, Augmentation()).class_counts()
    assert counts["train"] == labels.bincount().tolist() == [85, 4, 18]
    assert counts["test"] == [3, 2, 2]


def test_a_sampler_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^data\.sampler=weighted: must be shuffle or balanced"):
        check_sampler("weighted", torch.tensor([0, 1]))
    several = torch.tensor([[0, 1], [1, 1]], dtype=torch.int8)
    check_sampler("shuffle", several)
    with pytest.raises(ValueError, match=r"^data\.sampler=balanced: images with several labels .*task\.class_weights"):
        check_sampler("balanced", several)
