"""Weights by name, from caches that hold made-up files; no network is asked but one on this machine that refuses."""

import hashlib
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

import necklace
from necklace.backbones import TimmBackbone, TorchvisionResNet
from necklace.backbones.named import given_file, weights_file
from necklace.inference.trained_run import open_run
from necklace.run.runner import run
from tests.conftest import SMALL, spec_of

RESNET18, RESNET50 = "resnet18-f37072fd.pth", "resnet50-11ad3fa6.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's folder of weights and the hub's, both empty, and no way to a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # Made anew, and not kept: urllib's opener remembers for the whole process which proxies it first found.
    monkeypatch.setattr(urllib.request, "_opener", None)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def stem_and_first_stage(name: str) -> dict[str, torch.Tensor]:
    """What `backbone.stage=layer1` needs of a network's weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = torchvision.models.get_model(name).state_dict()
    return {key: value for key, value in state.items() if key.startswith(("conv1.", "bn1.", "layer1."))}


def in_hub(tmp_path: Path, repository: str) -> Path:
    """A folder of the hub's cache for one version of a repository."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    (folder / "snapshots" / "0123abcd").mkdir(parents=True)
    return folder / "snapshots" / "0123abcd"


def test_torchvisions_weights_are_found_in_torchs_cache(cache: Path) -> None:
    state = stem_and_first_stage("resnet50")
    torch.save(state, cache / RESNET50)
    backbone = TorchvisionResNet("resnet50", "layer1", pretrained=True)
    assert backbone.pretrained == (len(state) - 11, len(state) - 11)  # without BatchNorm's 11 counters of steps
    assert torch.equal(backbone.network.get_parameter("layer1.2.conv3.weight"), state["layer1.2.conv3.weight"])


def test_a_run_by_name_is_the_run_by_file(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(stem_and_first_stage("resnet18"), cache / RESNET18)
    small = [text for text in SMALL if not text.startswith("backbone")]
    chosen = [
        *small,
        f"outputs={tmp_path}",
        "epochs=1",
        "backbone=torchvision",
        "backbone.name=resnet18",
        "backbone.stage=layer1",
    ]
    by_name, by_file = (spec_of([*chosen, f"backbone.pretrained={value}"]) for value in ("true", cache / RESNET18))
    digest = hashlib.sha256((cache / RESNET18).read_bytes()).hexdigest()
    assert by_name.identity["backbone"]["pretrained"] == digest
    assert by_name.hash == by_file.hash != spec_of(chosen).hash
    record = run(by_name)
    assert record.pretrained == [25, 25]
    assert "fetching" not in capsys.readouterr().err
    folder = tmp_path / "runs" / record.name
    assert list(open_run(folder).models) == ["before", "after"]
    (cache / RESNET18).unlink()  # the trained weights do not need it
    assert list(open_run(folder).models) == ["after"]
    assert necklace.load(folder).record.hash == record.hash
    assert not capsys.readouterr().err


def test_no_weights_and_false_are_the_same_run() -> None:
    chosen = [text for text in SMALL if not text.startswith("backbone")] + ["backbone=resnet18"]
    assert spec_of(chosen).hash == spec_of([*chosen, "backbone.pretrained=false"]).hash
    assert given_file(False) is None
    assert TorchvisionResNet("resnet18", "layer1", pretrained=False).pretrained == (0, 25)


def test_a_name_that_cannot_be_fetched_says_which_file_belongs_where(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError) as error:
        spec_of([*(text for text in SMALL if not text.startswith("backbone")), "backbone=resnet50", "backbone.pretrained=true"])
    text = str(error.value)
    assert f"backbone.pretrained=true: {cache / RESNET50} is not there and {RESNET50} could not be fetched (" in text
    assert text.endswith("put that file there, or give a file with backbone.pretrained=FILE")
    assert "\n" not in text
    # A plan says so before it asks the network.
    assert capsys.readouterr().err == f"backbone.pretrained=true: fetching the weights {RESNET50}\n"
    assert not list(cache.iterdir())


def test_nothing_is_fetched_where_that_is_not_wanted(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, name in (("TorchvisionResNet", "resnet50"), ("TimmBackbone", "test_resnet")):
        node = {"_target_": f"necklace.backbones.{target}", "name": name, "pretrained": True}
        with pytest.raises(FileNotFoundError, match=r"backbone\.pretrained=true: .* is not there$"):
            weights_file(node, fetch=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("place", ["hub", "by hand"])
def test_timms_weights_are_found_in_its_cache_or_torchs(cache: Path, tmp_path: Path, place: str) -> None:
    full: Any = timm.create_model("test_resnet")
    by_hand = cache / "test_resnet.r160_in1k.safetensors"
    path = by_hand if place == "by hand" else in_hub(tmp_path, "timm/test_resnet.r160_in1k") / "model.safetensors"
    save_file(full.state_dict(), path)
    backbone = TimmBackbone("test_resnet", pretrained=True)
    assert backbone.pretrained[0] == backbone.pretrained[1] > 0
    assert torch.equal(backbone.network.state_dict()["layer1.0.conv1.weight"], full.state_dict()["layer1.0.conv1.weight"])


def test_timms_weights_that_cannot_be_fetched_say_which_file_belongs_where(cache: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        TimmBackbone("test_resnet", pretrained=True)
    text = str(error.value)
    assert text.startswith(f"backbone.pretrained=true: {cache / 'test_resnet.r160_in1k.safetensors'} is not there")
    assert "put the model.safetensors of timm/test_resnet.r160_in1k there under that name, or give a file with" in text
    assert "\n" not in text


def test_a_cifar_stem_says_what_would_fit(cache: Path) -> None:
    torch.save(stem_and_first_stage("resnet18"), cache / RESNET18)
    with pytest.raises(ValueError, match=r"covers 24 of 25 .*pretrained_skip, or take backbone\.stem=imagenet"):
        TorchvisionResNet("resnet18", "layer1", stem="cifar", pretrained=True)
    assert TorchvisionResNet("resnet18", "layer1", "cifar", True, ["conv1"]).pretrained == (24, 25)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "necklace.backbones.CifarResNet", "pretrained": True}, "CifarResNet has no weights by name"),
        (
            {"_target_": "necklace.backbones.TimmBackbone", "pretrained": 1},
            "pretrained=1: must be true, a weights file or null",
        ),
        ({"_target_": "necklace.backbones.TimmBackbone", "name": "test_vit4", "pretrained": ["x"]}, "must be true, a weights"),
    ],
)
def test_what_is_no_way_to_weights_is_named(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights_file(node)


@pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "pretrained_cfg_overlay"])
def test_weights_do_not_come_past_the_option_for_them(option: str) -> None:
    with pytest.raises(ValueError, match=rf"^backbone\.options\.{option}: weights come by backbone\.pretrained"):
        TimmBackbone("test_resnet", options={option: "x.pth"})


@pytest.mark.parametrize("alias", ["resnet34", "resnet50", "convnext_tiny", "efficientnet_b0"])
def test_an_alias_is_the_run_of_its_family_by_name(alias: str) -> None:
    family = "torchvision" if "resnet" in alias else "timm"
    small = [text for text in SMALL if not text.startswith("backbone")]
    by_alias, by_name = (
        spec_of([*small, f"backbone={alias}"]),
        spec_of([*small, f"backbone={family}", f"backbone.name={alias}"]),
    )
    assert by_alias.hash == by_name.hash
    assert by_alias.choices["backbone"] == alias


def test_tables_read_identities_without_torch() -> None:
    code = "import necklace.identity, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
