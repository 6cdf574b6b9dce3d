from collections.abc import Callable

import pytest
import torch
from torch import nn

from necklace.backbones import CifarResNet
from necklace.data.augment import normalise
from necklace.data.datamodule import SizedImages
from necklace.data.images import ImageSet
from necklace.data.sizes import Native
from necklace.heads import Gap, Pyramid
from necklace.model import Model, build_model, weights_hash
from necklace.necks import SPP, SPPF, ConvNeck, FocalBlock, FocalModulation, NoNeck
from necklace.run.costs import measure_cost

Part = Callable[..., nn.Module]


def build(neck: Part = NoNeck, seed: int = 0, head: Part = Gap, width: int = 4) -> Model:
    return build_model(lambda: CifarResNet(8, width), neck, head, 10, (32, 32), seed)


def test_cells_of_one_seed_differ_in_the_neck_alone() -> None:
    plain, focal, spp, sppf = (build(neck) for neck in (NoNeck, FocalModulation, SPP, SPPF))
    for other in (focal, spp, sppf):
        assert weights_hash(other.backbone) == weights_hash(plain.backbone)
        assert weights_hash(other.head) == weights_hash(plain.head)
    assert weights_hash(spp.neck) == weights_hash(sppf.neck)


def test_seeds_differ_and_zero_is_one() -> None:
    hashes = {weights_hash(build(seed=seed)) for seed in (0, 1, 2)}
    assert len(hashes) == 3
    assert weights_hash(build(seed=0)) in hashes


def test_the_global_generator_does_not_matter() -> None:
    torch.manual_seed(1)
    first = weights_hash(build(FocalModulation))
    torch.manual_seed(2)
    assert weights_hash(build(FocalModulation)) == first


def test_cost_by_hand() -> None:
    model = build(SPPF, head=Pyramid, width=16).train()
    costs = measure_cost(model, (32, 32))
    assert model.training
    assert costs["neck"].params == 64 * 32 + 2 * 32 + 128 * 64 + 2 * 64
    assert costs["neck"].macs == 8 * 8 * (64 * 32 + 128 * 64)
    assert costs["head"].macs == 64 * 21 * 10
    first = 32 * 32 * 3 * 16 * 9
    stage1, stage2 = 32 * 32 * 2 * 16 * 16 * 9, 16 * 16 * (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32)
    stage3 = 8 * 8 * (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64)
    assert costs["backbone"].macs == first + stage1 + stage2 + stage3
    assert costs["backbone"].output == (64, 8, 8)


def test_cost_counts_depthwise_convolutions() -> None:
    costs = measure_cost(build(FocalModulation, width=16), (32, 32))
    macs = 64 * (2 * 64 + 3) + 64 * 9 + 64 * 25 + 64 * 64 + 64 * 64  # per position; the global level is a mean
    assert costs["neck"].macs == 8 * 8 * macs


def test_weights_hash_sees_one_bit() -> None:
    layer = nn.Linear(3, 2)
    before = weights_hash(layer)
    with torch.no_grad():
        layer.bias[0] = torch.nextafter(layer.bias[0], torch.tensor(9.0))
    assert weights_hash(layer) != before


@pytest.mark.parametrize("size", [(4, 4), (31, 45)])
def test_any_size_goes_through(size: tuple[int, int]) -> None:
    assert build(FocalModulation).eval()(torch.randn(2, 3, *size)).shape == (2, 10)


EVERY_NECK = [NoNeck, ConvNeck, SPP, SPPF, FocalModulation, FocalBlock]


@pytest.mark.parametrize("head", [Gap, Pyramid])
@pytest.mark.parametrize("neck", EVERY_NECK, ids=lambda neck: neck.__name__)
def test_an_image_gets_the_same_answer_whatever_it_is_batched_with(neck: Part, head: Part) -> None:
    """200 images of 20 shapes, one by one and in native batches."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.randint(9, 70, (20, 2), generator=generator).repeat(10, 1)
    pixels = torch.randint(256, (int(shapes.prod(1).sum()) * 3,), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, shapes, torch.arange(200) % 10, tuple(map(str, range(200))))
    native = Native(max_side=64, stride=4)
    sized = SizedImages(images, native.native_shapes(shapes))
    model = build(neck, head=head).eval()
    steps = native.eval_steps(shapes, 16, 0, 1)
    assert len({step.size for step in steps}) > 10
    assert torch.cat([step.indices for step in steps]).sort().values.tolist() == list(range(200))
    with torch.no_grad():
        for step in steps:
            batch = normalise(sized.gather(step.indices, step.size), (0.5,) * 3, (0.25,) * 3)
            together = model(batch)
            alone = torch.cat([model(image[None]) for image in batch])
            torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mirror", [False, True])
def test_shift_counts_the_image_half_and_its_two_shifts_the_other_half(mirror: bool) -> None:
    model = build(SPPF).eval()
    images = torch.randn(3, 3, 32, 32)

    def moved(rows: torch.Tensor) -> torch.Tensor:
        return images[:, :, rows.clamp(0, 31)][:, :, :, rows.clamp(0, 31)]

    with torch.no_grad():
        model.mirror = mirror
        own, up, down = (model(moved(torch.arange(32) + by)) for by in (0, 2, -2))
        assert not torch.equal(own, up)
        model.shift = 2
        torch.testing.assert_close(model(images), own / 2 + (up + down) / 4, rtol=1e-5, atol=1e-5)
        model.train()
        trained = model(images)
        model.shift = 0
        assert torch.equal(trained, model(images))


def test_mirror_averages_the_logits_of_both_sides_in_evaluation_only() -> None:
    model = build(SPPF)
    images = torch.randn(3, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        one, other = model(images), model(images.flip(3))
        assert not torch.equal(one, other)
        model.mirror = True
        assert torch.equal(model(images), (one + other) / 2)
        model.train()
        trained = model(images)
        model.mirror = False
        assert torch.equal(trained, model(images))
