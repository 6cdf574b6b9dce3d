"""Magnitudes of contexts and the label's share, against plain computations, and the command that draws them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from necklace.cli.contexts import main, short_names
from necklace.diagnostics.context_sizes import context_sizes, label_share
from necklace.inference.trained_run import open_run
from necklace.run.runner import run
from tests.conftest import SMALL, spec_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    outputs = tmp_path_factory.mktemp("contexts")
    records = [
        run(spec_of([*SMALL, *chosen, "epochs=1", "data.val_fraction=0.3", f"outputs={outputs}"]))
        for chosen in (["neck=focal", "neck.global_norm=batch"], ["neck=focal", "seed=1"], ["neck=none"])
    ]
    return [outputs / "runs" / record.name for record in records]


def test_label_share() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 4
    means = torch.randn(4, 5, generator=generator)
    assert label_share(means[labels], labels) == pytest.approx(1)
    noise = torch.randn(600, 5, generator=generator)
    assert label_share(noise, labels) < 0.03
    features = means[labels] + noise
    # Its value from the two-way formula: one minus the variance that is left within the labels.
    within = sum(features[labels == k].var(0, unbiased=False).sum() * 150 for k in range(4))
    assert label_share(features, labels) == pytest.approx(
        1 - float(within / (600 * features.var(0, unbiased=False).sum())), rel=1e-4
    )
    assert label_share(torch.ones(10, 3), labels[:10]) == 0


def test_sizes_are_those_of_the_parts(folders: list[Path]) -> None:
    opened = open_run(folders[0])
    found = context_sizes(opened)
    val = opened.data.splits["val"]
    assert found["images"] == len(val)
    batches = [opened.data.prepare(batch, augment=False) for batch in opened.data.eval_batches("val")]
    images, labels = torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])
    for stage, model in opened.models.items():
        with torch.inference_mode():
            features = model.backbone(images)
            neck = model.neck
            parts = neck.parts(features)  # pyright: ignore[reportCallIssue]
            pooled = neck(features).mean((2, 3))
        for number, (name, value) in enumerate(found["layers"]["neck"][stage]["contexts"].items()):
            assert value == pytest.approx(float(parts.contexts[number].square().mean().sqrt()), rel=1e-3), name
            gated = (parts.contexts[number] * parts.gates[:, number : number + 1]).square().mean().sqrt()
            assert found["layers"]["neck"][stage]["gated"][name] == pytest.approx(float(gated), rel=1e-3)
        bias = float(neck.h.bias.detach().square().mean().sqrt())  # pyright: ignore
        assert found["layers"]["neck"][stage]["h.bias"] == pytest.approx(bias, rel=1e-3)
        assert found["label_share"]["neck"][stage] == pytest.approx(label_share(pooled, labels), rel=1e-3)


def test_the_command_writes_a_picture_and_its_numbers(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "figures" / "contexts.png"
    main([*map(str, folders), "--out", str(out)])
    with Image.open(out) as picture:
        assert picture.size[0] > 800
    first = out.read_bytes()
    found = json.loads(out.with_suffix(".json").read_text())["runs"]
    assert [each["run"] for each in found] == [folder.name for folder in folders]
    assert [bool(each["layers"]) for each in found] == [True, True, False]
    assert "label's share after the neck" in capsys.readouterr().out
    main([*map(str, folders), "--out", str(out)])
    assert out.read_bytes() == first


def test_errors_are_a_line(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--out=x.svg: must end in .png"):
        main([str(folders[0]), "--out", "x.svg"])
    with pytest.raises(SystemExit, match="there is no such folder"):
        main([str(tmp_path / "gone")])


def test_rows_are_named_by_what_tells_them_apart() -> None:
    names = ["a_net_none_epochs-3_b", "a_net_focal_x_epochs-3_b", "a_net_none_epochs-3_b", "a_net_focal_epochs-3_b"]
    assert short_names(names) == ["none", "focal_x", "none", "focal"]
    assert short_names(["a_net_focal"] * 2) == ["a_net_focal"] * 2
    assert short_names(["a_b", "a_b_c", "a_b_b"]) == ["b", "b_c", "b_b"]
