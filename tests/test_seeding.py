import torch

from necklace.seeding import numpy_generator, stream, stream_seed, torch_generator


def test_streams_differ_by_seed_name_and_step() -> None:
    seeds = {
        stream_seed(seed, name, *steps)
        for seed in (0, 1, 12)
        for name in ("neck", "order")
        for steps in ((), (0,), (1,), (0, 1), (1, 0))
    }
    assert len(seeds) == 3 * 2 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_reached_without_replaying_it() -> None:
    first = torch.rand(3, generator=torch_generator(0, "augment", 4, 7))
    torch.rand(100)
    assert torch.equal(first, torch.rand(3, generator=torch_generator(0, "augment", 4, 7)))
    assert numpy_generator(0, "x").random() == numpy_generator(0, "x").random()


def test_stream_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with stream(0, "neck"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with stream(0, "neck"):
        assert torch.equal(torch.rand(2), inside)
