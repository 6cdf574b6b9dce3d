"""The contract of every neck: shapes, gradients, configs, and pure imports."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from necklace import necks

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "neck").glob("[!_]*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def config_dir() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def config(name: str, *overrides: str) -> Any:
    return compose(overrides=[f"+neck={name}", *overrides]).neck


def make(name: str, channels: int, *overrides: str) -> Any:
    """Build a neck from its config, as the runner does."""
    return hydra.utils.instantiate(config(name, *overrides), channels=channels)


def test_the_necks() -> None:
    assert set(NAMES) >= {"none", "conv", "spp", "sppf", "focal", "focal_block", "dw_convnet", "gc", "attention", "mean_concat"}


@pytest.mark.parametrize("name", NAMES)
@given(b=st.integers(1, 2), c=st.integers(2, 9), h=st.integers(1, 9), w=st.integers(1, 9))
@settings(max_examples=12, deadline=None)
def test_shapes(name: str, b: int, c: int, h: int, w: int) -> None:
    neck = make(name, c).eval()
    assert neck.out_channels == c
    with torch.no_grad():
        y = neck(torch.randn(b, c, h, w))
    assert y.shape == (b, c, h, w)
    assert y.isfinite().all()


@given(
    window=st.sampled_from([1, 3, 5]),
    level=st.integers(0, 3),
    gating=st.booleans(),
    global_context=st.booleans(),
    aggregate=st.sampled_from(["all", "top"]),
    interaction=st.sampled_from(["multiply", "add", "dw_convnet"]),
    context=st.sampled_from(["conv", "avg_pool", "none"]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
@settings(max_examples=60, deadline=None)
def test_every_focal_combination_runs_or_is_a_clear_error(window: int, level: int, size: tuple[int, int], **o: Any) -> None:
    try:
        neck = necks.FocalModulation(4, focal_window=window, focal_level=level, **o)
    except ValueError as error:
        assert any(f"{name}={value!r}" in str(error) for name, value in o.items())  # noqa: PT017
        return
    x = torch.randn(2, 4, *size)
    assert neck(x).shape == x.shape
    assert len(neck.parts(x).contexts) == len(neck.context_names)


# A softmax is the same whatever is added to all that it compares.
NO_MATTER = {("gc", "conv_attn.bias")}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_input_and_every_weight(name: str) -> None:
    torch.manual_seed(0)
    neck = make(name, 8)
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    (neck(x) * torch.randn(2, 8, 5, 6)).sum().backward()
    for place, tensor in (("input", x), *neck.named_parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        if (name, place) in NO_MATTER:  # 0, or what rounding leaves of it, which differs between processors
            assert tensor.grad.abs().max() < 1e-5
        else:
            assert tensor.grad.abs().sum() > 0, place


@pytest.mark.parametrize("name", ["conv", "spp", "sppf", "mean_concat"])
def test_out_channels(name: str) -> None:
    neck = make(name, 6, "neck.out_channels=10")
    assert neck.out_channels == 10
    assert neck(torch.randn(2, 6, 3, 4)).shape == (2, 10, 3, 4)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_equal_numbers(name: str) -> None:
    torch.manual_seed(0)
    neck = make(name, 8).eval()
    x = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(neck(x.contiguous(memory_format=torch.channels_last)), neck(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_config_names_every_option_with_its_default(name: str) -> None:
    options = dict(config(name))
    neck = getattr(necks, options.pop("_target_").split(".")[-1])
    defaults = {n: p.default for n, p in inspect.signature(neck).parameters.items() if p.kind is not p.VAR_KEYWORD}
    if neck is necks.FocalBlock:
        defaults |= {n: p.default for n, p in inspect.signature(necks.FocalModulation).parameters.items()}
    del defaults["channels"]
    if name == "dw_convnet":
        defaults |= {"gating": False, "global_context": False, "aggregate": "top", "interaction": "dw_convnet"}
    values = {n: tuple(v) if n == "kernel_sizes" else v for n, v in options.items()}
    assert values == defaults


def test_lists_from_the_command_line() -> None:
    assert make("focal", 8, "neck.kernels=[3,7,13]").kernels == (3, 7, 13)
    assert make("focal_block", 8, "neck.kernels=[13]").modulation.kernels == (13,)
    assert make("dw_convnet", 8, "neck.kernels=[13]").kernels == (13,)
    spp = make("spp", 8, "neck.kernel_sizes=[3,5]")
    assert type(spp.kernel_sizes) is tuple
    assert spp.kernel_sizes == (3, 5)
    with pytest.raises(Exception, match=r"kernels=\[3, 4\]: allowed are non-empty lists of odd integers >= 1"):
        make("focal", 8, "neck.kernels=[3,4]")


@pytest.mark.parametrize("name", NAMES)
def test_a_neck_survives_saving(name: str, tmp_path: Path) -> None:
    neck: nn.Module = make(name, 8).eval()
    torch.save(neck.state_dict(), tmp_path / "neck.pt")
    other = make(name, 8).eval()
    other.load_state_dict(torch.load(tmp_path / "neck.pt", weights_only=True))
    x = torch.randn(1, 8, 4, 3)
    assert torch.equal(neck(x), other(x))


def test_import_is_pure_torch() -> None:
    code = """
import sys
import torch
before = set(sys.modules)
import necklace.necks
bad = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "timm", "torchmetrics", "torchvision", "rich"}
print(sorted(bad & {name.split(".")[0] for name in set(sys.modules) - before}))
print(sorted(name for name in set(sys.modules) - before if name.startswith("necklace")))
"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "[]"
    files = ["attention", "blocks", "control", "depthwise", "focal", "focal_block", "focal_levels", "focal_parts"]
    files += ["gc", "mean_concat", "options", "pools", "spp"]
    assert lines[1] == str(["necklace", "necklace.inference", "necklace.necks", *(f"necklace.necks.{name}" for name in files)])


@pytest.mark.parametrize(
    ("neck", "uses"),
    [
        ("options", set()),
        ("blocks", set()),
        ("focal_parts", set()),
        ("control", {"blocks", "options"}),
        ("mean_concat", {"blocks", "options"}),
        ("gc", {"blocks", "options"}),
        ("attention", {"blocks", "options"}),
        ("depthwise", set()),
        ("pools", {"depthwise"}),
        ("spp", {"blocks", "options", "pools"}),
        ("focal_levels", {"depthwise"}),
        ("focal", {"blocks", "depthwise", "focal_levels", "focal_parts", "options"}),
        ("focal_block", {"blocks", "focal", "options"}),
    ],
)
def test_a_neck_imports_only_what_it_uses(neck: str, uses: set[str]) -> None:
    tree = ast.parse((Path(necks.__file__).parent / f"{neck}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    own = {name.removeprefix("necklace.necks.").partition(".")[0] for name in found if name.startswith("necklace")}
    assert own == uses
