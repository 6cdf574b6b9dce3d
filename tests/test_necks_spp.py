"""SPP and SPPF against each other, against numpy, and at their error messages."""

import numpy as np
import pytest
import torch
from torch import Tensor

from necklace.necks import SPP, SPPF

SIZES = [
    (1, 1),
    (1, 2),
    (2, 1),
    (2, 2),
    (3, 3),
    (4, 4),
    (5, 4),
    (7, 7),
    (8, 13),
    (12, 12),
    (13, 5),
    (1, 20),
    (19, 20),
    (20, 20),
]


def distinct(*shape: int) -> Tensor:
    """Values that are all different: where two are equal, a pool may send the gradient to either."""
    n = int(np.prod(shape))
    return torch.linspace(-3.0, 3.0, n)[torch.randperm(n, generator=torch.Generator().manual_seed(0))].reshape(shape)


def pair(channels: int = 6, kernel: int = 5, out_channels: int | None = None) -> tuple[SPP, SPPF]:
    """The two necks from one seed, with BatchNorm statistics that do something."""
    torch.manual_seed(0)
    spp = SPP(channels, out_channels, kernel_sizes=(kernel, 2 * kernel - 1, 3 * kernel - 2))
    torch.manual_seed(0)
    sppf = SPPF(channels, out_channels, kernel_size=kernel)
    for neck in (spp, sppf):
        generator = torch.Generator().manual_seed(1)
        for conv in (neck.cv1, neck.cv2):
            for tensor in (conv.bn.weight, conv.bn.bias, conv.bn.running_mean, conv.bn.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return spp, sppf


def test_equal_start_under_one_seed() -> None:
    torch.manual_seed(3)
    spp = SPP(8)
    torch.manual_seed(3)
    sppf = SPPF(8)
    a, b = spp.state_dict(), sppf.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_names_are_those_of_yolov5() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    want = [f"{cv}.{name}" for cv in ("cv1", "cv2") for name in ["conv.weight", *(f"bn.{n}" for n in norm)]]
    assert list(SPPF(4).state_dict()) == want


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("training", [False, True])
def test_spp_and_sppf_are_bitwise_equal(size: tuple[int, int], training: bool) -> None:
    spp, sppf = pair()
    x = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(spp.train(training)(x), sppf.train(training)(x))


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_other_kernels_are_bitwise_equal(kernel: int) -> None:
    spp, sppf = pair(kernel=kernel, out_channels=5)
    x = torch.randn(2, 6, 9, 10, generator=torch.Generator().manual_seed(2))
    assert torch.equal(spp.eval()(x), sppf.eval()(x))


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (13, 5), (20, 20)])
def test_gradients_are_equal(size: tuple[int, int]) -> None:
    # The pools see cv1's output, which stays distinct if cv1 picks one input channel and its activation only rises.
    spp, sppf = pair(channels=2)
    grads = []
    for neck in (spp.eval(), sppf.eval()):
        with torch.no_grad():
            neck.cv1.conv.weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
            neck.cv1.bn.bias.fill_(9.0)  # SiLU rises from -1.28 on
        x = distinct(1, 2, *size).requires_grad_()
        y = neck(x)
        (y * distinct(*y.shape)).sum().backward()
        assert x.grad is not None
        grads.append([x.grad, *(p.grad for p in neck.parameters())])
    for a, b in zip(*grads, strict=True):
        assert a is not None
        assert a.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def numpy_spp(spp: SPP, x: np.ndarray) -> np.ndarray:
    """SPP in eval mode, written out: windows as slices that end at the border."""

    def conv_bn_silu(layer: torch.nn.Sequential, x: np.ndarray) -> np.ndarray:
        s = {name: value.double().numpy() for name, value in layer.state_dict().items()}
        y = np.einsum("oi,bihw->bohw", s["conv.weight"][:, :, 0, 0], x)
        y = (y - s["bn.running_mean"][:, None, None]) / np.sqrt(s["bn.running_var"][:, None, None] + 1e-5)
        y = y * s["bn.weight"][:, None, None] + s["bn.bias"][:, None, None]
        return y / (1 + np.exp(-y))

    def pool(x: np.ndarray, k: int) -> np.ndarray:
        y, r = np.empty_like(x), k // 2
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                y[:, :, i, j] = x[:, :, max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1].max(axis=(2, 3))
        return y

    x = conv_bn_silu(spp.cv1, x)
    return conv_bn_silu(spp.cv2, np.concatenate([x, *(pool(x, k) for k in spp.kernel_sizes)], axis=1))


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (16, 11)])
def test_spp_equals_numpy(size: tuple[int, int]) -> None:
    spp, _ = pair()
    x = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        y = spp.eval().double()(x)
    np.testing.assert_allclose(y.numpy(), numpy_spp(spp, x.numpy()), rtol=1e-10, atol=1e-12)


def test_parameters_at_512() -> None:
    assert [sum(p.numel() for p in neck(512).parameters()) for neck in (SPP, SPPF)] == [656_896, 656_896]


@pytest.mark.parametrize(
    ("neck", "options", "words"),
    [
        (SPP, {"channels": 1}, ["channels=1", ">= 2"]),
        (SPP, {"channels": True}, ["channels=True", "integers"]),
        (SPP, {"kernel_sizes": (5, 8)}, ["kernel_sizes=(5, 8)", "odd"]),
        (SPP, {"kernel_sizes": ()}, ["kernel_sizes=()", "non-empty"]),
        (SPP, {"kernel_sizes": 5}, ["kernel_sizes=5", "lists"]),
        (SPP, {"kernel_sizes": "5,9"}, ["kernel_sizes='5,9'", "lists"]),
        (SPP, {"kernel_sizes": (5, True)}, ["kernel_sizes=(5, True)", "odd"]),
        (SPP, {"kernel_sizes": (-1,)}, ["kernel_sizes=(-1,)", ">= 1"]),
        (SPP, {"out_channels": 0}, ["out_channels=0", ">= 1"]),
        (SPPF, {"channels": 1}, ["channels=1", ">= 2"]),
        (SPPF, {"kernel_size": 4}, ["kernel_size=4", "odd"]),
        (SPPF, {"kernel_size": 5.0}, ["kernel_size=5.0", "odd integers"]),
        (SPPF, {"kernel_size": "5"}, ["kernel_size='5'", "odd integers"]),
        (SPPF, {"out_channels": 2.5}, ["out_channels=2.5", "integers"]),
    ],
)
def test_errors(neck: type, options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are looked for below)
        neck(**{"channels": 8, **options})
    assert all(word in str(error.value) for word in words), str(error.value)
