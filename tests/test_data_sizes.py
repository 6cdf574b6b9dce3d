from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from necklace.data.sizes import Fixed, Multiscale, Native, Sizes, Step
from necklace.seeding import torch_generator

SIZES: list[Sizes] = [
    Fixed(32),
    Fixed([24, 40]),
    Multiscale([16, 24, 40], 32),
    Multiscale({"min": 24, "max": 48, "step": 8}, [32, 48], per="epoch"),
    Native(24, 8),
    Native(64, 16),
]
# Few values, so that groups of one shape are larger than a batch, of which some give a map of 1x1 and some are alone.
SHAPES = st.lists(st.tuples(st.sampled_from([3, 8, 20]), st.sampled_from([8, 9, 30, 200])), min_size=1, max_size=70)
ANY_PLAN = {
    "sizes": st.sampled_from(SIZES),
    "shapes": SHAPES.map(lambda shapes: torch.tensor(shapes)),
    "batch_size": st.integers(1, 13),
    "world_size": st.integers(1, 4),
    "seed": st.integers(0, 3),
    "epoch": st.integers(0, 50),
}


def ranks(sizes: Sizes, shapes: torch.Tensor, batch_size: int, seed: int, epoch: int, world_size: int) -> list[list[Step]]:
    return [sizes.train_steps(shapes, batch_size, seed, epoch, rank, world_size) for rank in range(world_size)]


def images(steps: list[Step]) -> list[int]:
    return [index for step in steps for index in step.indices.tolist()]


def trainable(sizes: Sizes, shapes: torch.Tensor, batch_size: int, world_size: int) -> set[int]:
    """The images that can be trained on at all, image by image from the rule."""
    if not isinstance(sizes, Native):
        return set(range(len(shapes)) if len(shapes) >= batch_size else [])
    keys = [tuple(shape) for shape in sizes.native_shapes(shapes).tolist()]
    least = {key: world_size * (2 if key == (sizes.stride, sizes.stride) else 1) for key in keys}
    return {index for index, key in enumerate(keys) if min(keys.count(key), batch_size) >= least[key]}


def left_out(sizes: Sizes, shapes: torch.Tensor, batch_size: int, world_size: int) -> int:
    """How many images an epoch has no batch for, group by group from the rule."""
    if not isinstance(sizes, Native):
        return len(shapes) % batch_size
    missing = 0
    for key, count in Counter(tuple(shape) for shape in sizes.native_shapes(shapes).tolist()).items():
        least, rest = world_size * (2 if key == (sizes.stride, sizes.stride) else 1), count % batch_size
        missing += count if least > batch_size else rest if rest < least else 0
    return missing


@given(**ANY_PLAN)
@settings(max_examples=250, deadline=None)
def test_training_is_exact_over_the_ranks(
    sizes: Sizes, shapes: torch.Tensor, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    if batch_size < world_size or not trainable(sizes, shapes, batch_size, world_size):
        with pytest.raises(ValueError, match=f"^batch_size={batch_size}"):
            sizes.train_steps(shapes, batch_size, seed, epoch, 0, world_size)
        return
    plans = ranks(sizes, shapes, batch_size, seed, epoch, world_size)
    assert len({len(plan) for plan in plans}) == 1
    for together in zip(*plans, strict=True):
        shares = [len(step.indices) for step in together]
        assert {step.size for step in together} == {together[0].size}
        assert {step.total for step in together} == {sum(shares)}
        assert sum(shares) <= batch_size
        assert max(shares) - min(shares) <= 1
        assert all(step.indices.dtype == torch.int64 for step in together)
        if isinstance(sizes, Native):
            assert min(shares) >= (2 if together[0].size == (sizes.stride, sizes.stride) else 1)
            chosen = torch.cat([step.indices for step in together])
            assert bool((sizes.native_shapes(shapes)[chosen] == torch.tensor(together[0].size)).all())
        else:
            assert sum(shares) == batch_size
    seen = [index for plan in plans for index in images(plan)]
    assert len(seen) == len(set(seen))
    assert len(shapes) - len(seen) == left_out(sizes, shapes, batch_size, world_size)
    assert set(seen) <= trainable(sizes, shapes, batch_size, world_size)
    # Planned anew after an interruption, a rank finds the very steps that it has not taken yet.
    again = sizes.train_steps(shapes.clone(), batch_size, seed, epoch, world_size - 1, world_size)
    for old, new in zip(plans[-1], again, strict=True):
        assert (old.size, old.total, old.indices.tolist()) == (new.size, new.total, new.indices.tolist())


@given(**ANY_PLAN)
@settings(max_examples=100, deadline=None)
def test_every_image_is_seen_over_a_few_epochs(
    sizes: Sizes, shapes: torch.Tensor, batch_size: int, world_size: int, seed: int, epoch: int
) -> None:
    expected = trainable(sizes, shapes, batch_size, world_size)
    if batch_size < world_size or not expected:
        return
    # Native rotates, so two epochs are enough. The others leave out less than half of the images by chance.
    epochs = 2 if isinstance(sizes, Native) else 40
    seen = set()
    for number in range(epoch, epoch + epochs):
        seen.update(*map(images, ranks(sizes, shapes, batch_size, seed, number, world_size)))
    assert seen == expected


def test_a_rotation_leaves_out_each_image_equally_often_and_never_twice_in_a_row() -> None:
    shapes, counts, missed = torch.tensor([[16, 8]] * 11 + [[16, 16]] * 7), torch.zeros(18, dtype=torch.int64), set()
    for epoch in range(11 * 7):
        seen = {index for plan in ranks(Native(16, 8), shapes, 4, 1, epoch, world_size=4) for index in images(plan)}
        counts[list(seen)] += 1
        assert missed <= seen
        missed = set(range(18)) - seen
    assert counts.tolist() == [77 * 8 // 11] * 11 + [77 * 4 // 7] * 7


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_order_changes_with_epoch_and_seed(sizes: Sizes, world_size: int) -> None:
    shapes = torch.randint(8, 64, (203, 2), generator=torch.Generator().manual_seed(0))
    orders = [
        images(ranks(sizes, shapes, 8, seed, epoch, world_size)[0]) for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
    ]
    assert len(set(map(tuple, orders))) == len(orders)
    # Which images come together changes too, even where none is left out and all have one shape.
    whole = torch.full((48, 2), 20)
    together = [
        {frozenset(images([step])) for step in sizes.train_steps(whole, 8, 0, epoch, 0, world_size)} for epoch in (0, 1)
    ]
    assert not together[0] & together[1]
    if isinstance(sizes, Native):  # and so does the order of the shapes
        plans = [sizes.train_steps(shapes, 8, 0, epoch, 0, world_size) for epoch in range(3)]
        assert len({tuple(step.size for step in plan) for plan in plans}) == 3


@given(**{name: ANY_PLAN[name] for name in ("sizes", "shapes", "batch_size", "world_size")})
@settings(max_examples=150, deadline=None)
def test_evaluation_is_complete_and_disjoint(sizes: Sizes, shapes: torch.Tensor, batch_size: int, world_size: int) -> None:
    plans = [sizes.eval_steps(shapes, batch_size, rank, world_size) for rank in range(world_size)]
    seen = [images(plan) for plan in plans]
    assert sorted(index for own in seen for index in own) == list(range(len(shapes)))
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    own = sizes.native_shapes(shapes) if isinstance(sizes, Native) else None
    for plan in plans:
        for step in plan:
            assert 0 < len(step.indices) <= min(step.total, -(-batch_size // world_size))
            assert own is None or bool((own[step.indices] == torch.tensor(step.size)).all())
    # In one process no more steps than the images of one size need.
    groups = shapes[:, 0] * 0 if own is None else own[:, 0] * 1000 + own[:, 1]
    needed = sum(-(-count // batch_size) for count in groups.unique(return_counts=True)[1].tolist())
    assert len(sizes.eval_steps(shapes, batch_size, 0, 1)) == needed
    again = sizes.eval_steps(shapes, batch_size, 0, world_size)
    assert [images([step]) for step in again] == [images([step]) for step in plans[0]]


def test_evaluation_sizes() -> None:
    shapes = torch.tensor([[9, 20], [16, 16], [10, 18]])
    size = {str(sizes): [(step.size, images([step])) for step in sizes.eval_steps(shapes, 2, 0, 1)] for sizes in SIZES}
    assert list(size.values())[:4] == [[(size, [0, 1]), (size, [2])] for size in ((32, 32), (24, 40), (32, 32), (32, 48))]
    assert size[str(Native(24, 8))] == [((8, 16), [2]), ((8, 24), [0]), ((16, 16), [1])]


def test_fixed_in_one_process_keeps_the_order_of_one_permutation() -> None:
    shapes = torch.full((53, 2), 7)
    for epoch in (0, 3):
        order = torch.randperm(53, generator=torch_generator(5, "order", epoch))
        steps = Fixed(7).train_steps(shapes, 8, 5, epoch, 0, 1)
        assert [images([step]) for step in steps] == order[:48].view(6, 8).tolist()
        for rank in range(3):
            share = Fixed(7).train_steps(shapes, 8, 5, epoch, rank, 3)
            assert [images([step]) for step in share] == order[:48].view(6, 8)[:, rank::3].tolist()
        multiscale = Multiscale([5, 6], 7).train_steps(shapes, 8, 5, epoch, 0, 1)
        assert images(multiscale) == images(steps)


def test_a_drawn_size_depends_on_seed_epoch_and_step_alone() -> None:
    def drawn(count: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> list[int]:
        steps = Multiscale([24, 32, 40, 48], 32).train_steps(
            torch.full((count, 2), 32), batch_size, seed, epoch, rank, world_size
        )
        assert all(height == width for height, width in (step.size for step in steps))
        return [step.size[0] for step in steps]

    reference = drawn(800, 4, seed=0, epoch=0)
    assert drawn(403, 4, seed=0, epoch=0) == reference[:100]
    assert drawn(1600, 8, seed=0, epoch=0, rank=2, world_size=3) == reference
    assert drawn(800, 4, seed=1, epoch=0) != reference
    assert drawn(800, 4, seed=0, epoch=1) != reference
    many = torch.tensor(drawn(8000, 1, seed=0, epoch=0))
    shares = [(many == side).double().mean().item() for side in (24, 32, 40, 48)]
    assert shares == pytest.approx([0.25] * 4, abs=0.02)


def test_sizes_in_turn_last_a_whole_epoch() -> None:
    sizes = Multiscale({"min": 24, "max": 48, "step": 12}, 32, per="epoch")
    plans = [sizes.train_steps(torch.full((20, 2), 32), 4, 0, epoch, 0, 1) for epoch in range(4)]
    assert [{step.size for step in plan} for plan in plans] == [{(24, 24)}, {(36, 36)}, {(48, 48)}, {(24, 24)}]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1), (4, 4)),
        ((4000, 10), (512, 4)),  # the width would be 1.28
        ((10, 4000), (4, 512)),
        ((512, 4), (512, 4)),
        ((224, 320), (224, 320)),
        ((1024, 768), (512, 384)),
        ((30, 33), (32, 32)),  # halves go up
        ((29, 31), (28, 32)),
        ((513, 511), (512, 512)),
        ((1000, 999), (512, 512)),
        ((700, 430), (512, 316)),  # the width would be 314.5
    ],
)
def test_native_shapes_by_hand(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    for max_side in (512, 515):
        assert Native(max_side, 4).native_shapes(torch.tensor([shape])).tolist() == [list(expected)]


@given(shape=st.tuples(st.integers(1, 5000), st.integers(1, 5000)), stride=st.integers(1, 40), extra=st.integers(0, 700))
@settings(deadline=None)
def test_native_shapes_keep_the_aspect_within_the_rounding(shape: tuple[int, int], stride: int, extra: int) -> None:
    max_side = stride + extra
    got = Native(max_side, stride).native_shapes(torch.tensor([shape]))[0].tolist()
    scale = min(Fraction(1), Fraction(max_side // stride * stride, max(shape)))
    for side, exact in zip(got, (side * scale for side in shape), strict=True):
        assert side % stride == 0
        assert stride <= side <= max_side
        assert abs(side - exact) <= Fraction(stride, 2) or (side == stride and 2 * exact < stride)
    assert Native(max_side, stride).native_shapes(torch.tensor([got]))[0].tolist() == got


def test_a_map_of_one_value_needs_two_images_on_each_rank() -> None:
    shapes = torch.tensor([[8, 8]] * 5 + [[16, 8]] * 5)
    sizes = Native(16, 8)

    def seen(batch_size: int, world_size: int) -> int:
        return sum(len(images(plan)) for plan in ranks(sizes, shapes, batch_size, 0, 0, world_size))

    assert seen(4, 1) == 10 - 1  # 4 + 1 of the small ones, 4 + 1 of the others
    assert seen(4, 2) == 10 - 2
    assert seen(4, 3) == 10 - (5 + 1)  # four images cannot give three ranks two each
    assert seen(1, 1) == 10 - 5


@given(sizes=ANY_PLAN["sizes"], shapes=ANY_PLAN["shapes"], seed=ANY_PLAN["seed"])
@settings(max_examples=50, deadline=None)
def test_no_step_brings_an_image_below_its_least_shape(sizes: Sizes, shapes: torch.Tensor, seed: int) -> None:
    least = sizes.least_shapes(shapes)
    assert least.shape == shapes.shape
    for epoch in range(3 if len(trainable(sizes, shapes, 2, 1)) else 0):
        for step in [*sizes.train_steps(shapes, 2, seed, epoch, 0, 1), *sizes.eval_steps(shapes, 2, 0, 1)]:
            assert bool((torch.tensor(step.size) >= least[step.indices]).all())


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (Fixed, {"size": 0}, "data.sizes.size=0"),
        (Fixed, {"size": [32]}, "data.sizes.size=[32]"),
        (Fixed, {"size": [32, -1]}, "data.sizes.size=[32, -1]"),
        (Fixed, {"size": "32"}, "data.sizes.size=32"),
        (Fixed, {"size": 32.0}, "data.sizes.size=32.0"),
        (Multiscale, {"sizes": [], "eval_size": 32}, "data.sizes.sizes=[]"),
        (Multiscale, {"sizes": 32, "eval_size": 32}, "data.sizes.sizes=32"),
        (Multiscale, {"sizes": [32, 0], "eval_size": 32}, "data.sizes.sizes=[32, 0]"),
        (Multiscale, {"sizes": {"min": 24, "max": 48}, "eval_size": 32}, "data.sizes.sizes={'min': 24"),
        (Multiscale, {"sizes": {"min": 24, "max": 48, "step": 0}, "eval_size": 32}, "'step': 0"),
        (Multiscale, {"sizes": {"min": 48, "max": 24, "step": 8}, "eval_size": 32}, "whole steps"),
        (Multiscale, {"sizes": {"min": 24, "max": 47, "step": 8}, "eval_size": 32}, "whole steps"),
        (Multiscale, {"sizes": [32], "eval_size": True}, "data.sizes.eval_size=True"),
        (Multiscale, {"sizes": [32], "eval_size": 32, "per": "step"}, "data.sizes.per=step"),
        (Native, {"max_side": 0, "stride": 4}, "data.sizes.max_side=0"),
        (Native, {"max_side": 3, "stride": 4}, "data.sizes.max_side=3"),
        (Native, {"max_side": 64, "stride": 0}, "data.sizes.stride=0"),
    ],
)
def test_a_wrong_option_is_named(make: Any, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        make(**options)
    assert words in str(error.value)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_plan_that_cannot_be_is_refused(sizes: Sizes) -> None:
    shapes = torch.tensor([[8, 8]] * 3)
    with pytest.raises(ValueError, match=r"batch_size=2: must be at least 3"):
        sizes.train_steps(shapes, 2, 0, 0, 0, 3)
    with pytest.raises(ValueError, match=r"batch_size=4.*3 training images|batch_size=4: larger .* 3$"):
        sizes.train_steps(shapes, 4, 0, 0, 0, 4)
    with pytest.raises(ValueError, match=r"batch_size=0: must be at least 1"):
        sizes.eval_steps(shapes, 0, 0, 1)
    with pytest.raises(ValueError, match=r"rank=2: must lie"):
        sizes.eval_steps(shapes, 2, 2, 2)
    assert sizes.eval_steps(shapes[:0], 2, 0, 1) == []
