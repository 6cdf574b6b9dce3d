"""A detection run is used: its boxes are those of its own test, as rows, and in files for other programs."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import nms

import necklace
from necklace.boxes import Evidence, ImageBoxes, evidence_of
from necklace.cli.main import main
from necklace.data.sizes import Fixed
from necklace.inference.export import Agreement, export_run
from necklace.inference.formats import Plain
from necklace.inference.loaded import LoadedRun
from necklace.inference.trained_run import open_run
from necklace.record import read_record
from necklace.run.runner import run
from necklace.tasks.detection import detections
from tests.conftest import SMALL, spec_of
from tests.detection_data import boxes_folder, on_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detection run at native sizes; not to be changed."""
    root = tmp_path_factory.mktemp("boxes")
    record = run(spec_of([*on_folder(boxes_folder(root / "voc"), root), "neck=sppf", "epochs=3"]))
    return root / "runs" / record.name


@pytest.fixture(scope="module")
def loaded(trained: Path) -> LoadedRun:
    return necklace.load(trained)


@pytest.fixture(scope="module")
def files(trained: Path) -> list[Path]:
    folder = trained.parents[1] / "voc" / "JPEGImages"
    return [folder / f"{index:06}.png" for index in range(57, 70)]


def test_boxes_are_those_of_the_runs_own_test(trained: Path, loaded: LoadedRun, files: list[Path]) -> None:
    test = open_run(trained).data.splits["test"]
    assert test.boxes is not None
    images = []
    for index, (found, shape) in enumerate(zip(loaded.predict(files), test.shapes.tolist(), strict=True)):
        (height, width), (true, classes, flags) = shape, (each.numpy() for each in test.boxes.of(index))
        own = found.boxes.numpy(), found.scores.numpy(), found.classes.numpy()
        images.append(ImageBoxes(index, height, width, true, classes, flags, *own))
        assert (found.scores.diff() <= 0).all()
    metrics = Evidence.joined([evidence_of(images, 2)], len(images)).metrics(loaded.classes)
    recorded = read_record(trained / "record.json").metrics
    for name in ("box_map", "box_map50", "box_map75", "box_map07", "box_loc"):
        assert metrics[name] == pytest.approx(recorded[f"test/{name}"], abs=1e-6)
    assert metrics["box_map50"] > 0


def test_every_kind_of_image_gives_the_same(loaded: LoadedRun, files: list[Path], tmp_path: Path) -> None:
    with Image.open(files[0]) as opened:
        upright = opened.convert("RGB")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    kinds: list[Any] = [files[0], upright, np.asarray(upright), tmp_path / "turned.png"]
    first, *others = loaded.predict(kinds)
    for other in others:
        torch.testing.assert_close(tuple(other), tuple(first))
    (alone,) = loaded.predict(files[0])
    torch.testing.assert_close(alone.boxes, first.boxes, rtol=0, atol=1e-4)


def test_boxes_are_in_pixels_of_the_image_as_it_was_given(loaded: LoadedRun, files: list[Path]) -> None:
    smaller = replace(loaded, preprocessing=replace(loaded.preprocessing, sizes=Fixed(24)))
    with Image.open(files[0]) as opened:
        size = opened.width, opened.height
    assert size == (56, 40)
    (small,) = smaller.predict(files[0])
    with torch.no_grad():
        outputs = loaded.model(smaller.preprocess(files[0]))
    (seen,) = detections(outputs, (24, 24))
    assert len(seen.boxes) > 5
    torch.testing.assert_close(small.boxes, seen.boxes * torch.tensor([56, 40, 56, 40]) / 24)
    assert small.boxes[:, 2].max() > 40


def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[str, str, object]:
    monkeypatch.setattr("sys.argv", ["necklace", "predict", *map(str, arguments)])
    code: object = None
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return out, err, code


def test_rows(
    trained: Path,
    loaded: LoadedRun,
    files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    out, err, code = predict(capsys, monkeypatch, trained, *files[:3], tmp_path, "--score", "0")
    assert code == 1
    assert "broken.png: " in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["file", "class", "score", "x0", "y0", "x1", "y1"]
    found = loaded.predict(files[:3])
    assert [row["file"] for row in rows] == [str(file) for file, each in zip(files, found, strict=False) for _ in each.scores]
    assert [row["class"] for row in rows] == [loaded.classes[k] for each in found for k in each.classes.tolist()]
    for column, name in enumerate(("x0", "y0", "x1", "y1")):
        expected = torch.cat([each.boxes[:, column] for each in found]).numpy()
        np.testing.assert_allclose([float(row[name]) for row in rows], expected, rtol=1e-5, atol=1e-4)
    middle = sorted(float(row["score"]) for row in rows)[len(rows) // 2]
    target = tmp_path / "found.json"
    assert predict(capsys, monkeypatch, trained, *files[:3], "--out", target, "--score", middle)[2] is None
    fewer = json.loads(target.read_text())
    assert 0 < len(fewer) < len(rows)
    assert all(row["score"] >= middle for row in fewer)
    assert list(fewer[0]) == list(rows[0])


def test_a_score_out_of_place_is_one_sentence(
    trained: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(capsys, monkeypatch, trained, files[0], "--score", "1.5")[2] == "error: --score=1.5: must be from 0 to 1"
    assert predict(capsys, monkeypatch, trained, files[0], "--score", "nan")[2] == "error: --score=nan: must be from 0 to 1"
    record = run(spec_of([*SMALL, "epochs=1", f"outputs={tmp_path}"]))
    said = predict(capsys, monkeypatch, tmp_path / "runs" / record.name, files[0], "--score", "0.5")[2]
    assert str(said).startswith("error: --score=0.5: only where a run finds boxes")


@pytest.mark.parametrize("form", ["onnx", "torchscript", "safetensors"])
def test_files_for_other_programs(trained: Path, files: list[Path], tmp_path: Path, form: str) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / trained.name))
    loaded = necklace.load(copy)
    lines = export_run(loaded, form)
    assert "in a score" in lines[-1]
    path = next(copy.glob(f"model.{'pt' if form == 'torchscript' else form}"))
    about = json.loads((copy / f"{path.name}.json").read_text())
    assert [each["name"] for each in about["outputs"]] == ["scores", "boxes"]
    assert about["preprocessing"]["size"]["rule"] == "native"
    assert about["check"]["largest_difference"] <= 1e-4
    assert len(about["check"]["sizes"]) >= 3
    if form != "onnx":
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for height, width in ((40, 56), (64, 48), (33, 90)):
        batch = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        with torch.no_grad():
            expected = Plain(loaded.model)(batch)
        for own, other in zip(expected, session.run(["scores", "boxes"], {"images": batch.numpy()}), strict=True):
            np.testing.assert_allclose(np.asarray(other), own.numpy(), rtol=1e-4, atol=1e-4)
    # Non-maximum suppression from the JSON's words and numbers alone gives what the run predicts.
    scores, boxes = map(np.asarray, session.run(["scores", "boxes"], {"images": loaded.preprocess(files[1]).numpy()}))
    rule, (found,) = about["postprocessing"], loaded.predict(files[1])
    height, width = loaded.preprocess(files[1]).shape[2:]
    where = torch.from_numpy(boxes[0]).clamp(min=0).minimum(torch.tensor([width, height] * 2))
    place, number = (torch.from_numpy(scores[0]) > rule["least_score"]).nonzero(as_tuple=True)
    score = torch.from_numpy(scores[0])[place, number]
    best = score.argsort(descending=True)[: rule["candidates"]]
    place, number, score = place[best], number[best], score[best]
    kept = torch.cat(
        [own[nms(where[place[own]], score[own], rule["iou"])] for k in (0, 1) if len(own := (number == k).nonzero()[:, 0])]
    )
    kept = kept[score[kept].argsort(descending=True)][: rule["most"]]
    with Image.open(files[1]) as opened:
        ratio = torch.tensor([opened.width / width, opened.height / height] * 2)
    np.testing.assert_allclose(score[kept].numpy(), found.scores.numpy(), atol=1e-4)
    np.testing.assert_allclose((where[place[kept]] * ratio)[:20].numpy(), found.boxes[:20].numpy(), atol=1e-2)


def test_boxes_that_differ_do_not_hold() -> None:
    assert Agreement("", (), 1e-5, 0.02, 240).holds
    assert not Agreement("", (), 1e-5, 0.03, 240).holds
    assert not Agreement("", (), 2e-4, 0.0, 240).holds
    assert not Agreement("", (), 0.0, float("nan"), 240).holds
