import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import necklace
from necklace.cli.main import main
from necklace.inference.prediction import Predictions
from tests import test_inference_loaded

trained = test_inference_loaded.trained  # fixture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images of different sizes and kinds, and what lies about in folders."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    (root / "b" / "c").mkdir(parents=True)
    (root / "__MACOSX").mkdir()
    for name, shape in (("z.png", (30, 40)), ("a.JPG", (52, 37)), ("b/1.bmp", (8, 8)), ("b/c/é, x.webp", (60, 44))):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(root / name)
    for name in (".hidden.png", "__MACOSX/._a.jpg", "notes.txt", "b/Makefile"):
        (root / name).write_text("no image")
    (root / "b" / "again").symlink_to(root)
    return root


def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[str, str, object]:
    """What `necklace predict` prints, says on stderr, and exits with."""
    monkeypatch.setattr("sys.argv", ["necklace", "predict", *map(str, arguments)])
    capsys.readouterr()
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return printed.out, printed.err, code


def test_files_and_folders_as_csv(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err, code = predict(capsys, monkeypatch, trained, images / "z.png", images)
    rows = list(csv.DictReader(io.StringIO(out)))
    names = [images / "z.png", images / "a.JPG", images / "b/1.bmp", images / "b/c/é, x.webp"]
    assert [row["image"] for row in rows] == list(map(str, names))  # a file that is named twice counts once
    assert (err, code) == (f"note: {images}: 2 files without the ending of an image's name, not looked at\n", 0)
    loaded = necklace.load(trained)
    expected = loaded.predict(names)
    found = torch.tensor([[float(row[f"p/{name}"]) for name in loaded.classes] for row in rows])
    assert torch.allclose(found, expected, atol=1e-6)
    assert [row["predicted"] for row in rows] == [loaded.classes[k] for k in expected.argmax(1)]


def test_json_by_ending_and_by_option(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, code = predict(capsys, monkeypatch, trained, images / "a.JPG", "--format", "json")
    (row,) = json.loads(out)
    assert code == 0
    assert row["image"] == str(images / "a.JPG")
    assert row["probabilities"][row["predicted"]] == max(row["probabilities"].values())
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    shown, err, _ = predict(capsys, monkeypatch, trained, images / "a.JPG", "--out", tmp_path / "x.JSON")
    assert shown == ""
    assert err == f"{tmp_path / 'x.JSON'}: 1 images, 10 classes\n"
    assert (tmp_path / "x.JSON").read_text() == out
    predict(capsys, monkeypatch, trained, images / "a.JPG", "--out", tmp_path / "y.txt", "--format", "csv")
    assert (tmp_path / "y.txt").read_text().startswith("image,predicted,p/circle,")


def test_what_cannot_be_read_is_named_and_the_rest_predicted(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "b" / "broken.png").write_bytes((images / "z.png").read_bytes()[:90])
    (images / "empty.jpg").touch()
    out, err, code = predict(capsys, monkeypatch, trained, images, images / "notes.txt", "--out", tmp_path / "x.csv")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 3
    assert lines[1] == f"error: {images / 'empty.jpg'}: the file is empty"
    assert lines[0].startswith(f"error: {images / 'b' / 'broken.png'}: ")
    assert lines[2].startswith(f"error: {images / 'notes.txt'}: not an image")
    assert code == 1
    assert out == ""
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "error: nowhere.png: there is no such file or folder"),
        (["EMPTY"], "no image there; in a folder, an image's name ends in .avif, .bmp, "),
        (["EMPTY", "--out", "x.xls"], "error: --out=x.xls: must end in .csv or .json, or come with --format"),
        (["EMPTY", "--out", "nowhere/x.csv"], "error: --out=nowhere/x.csv: there is no folder nowhere"),
        (["EMPTY", "--device", "toaster"], "error: --device=toaster: "),
    ],
)
def test_what_is_wrong_is_one_sentence(
    trained: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    out, _, code = predict(capsys, monkeypatch, trained, *(str(text).replace("EMPTY", "empty") for text in arguments))
    assert out == ""
    assert message in str(code)
    assert "\n" not in str(code)


def test_any_number_of_labels_an_image() -> None:
    probabilities = torch.tensor([[0.9, 0.6], [0.5, 0.1]])
    found = Predictions(("cat", "a;dog"), ("1.png", "2.png"), probabilities, False, {}, ())
    assert [found.labels(number) for number in (0, 1)] == [["cat", "a;dog"], []]
    assert found.text("csv") == "image,predicted,p/cat,p/a;dog\n1.png,cat;a;dog,0.9,0.6\n2.png,,0.5,0.1\n"
    assert [row["predicted"] for row in json.loads(found.text("json"))] == [["cat", "a;dog"], []]
