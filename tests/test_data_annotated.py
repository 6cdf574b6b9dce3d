import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from necklace.boxes.truth import COUNTS, CROWD, IGNORED
from necklace.data.annotated import Objects, annotated, check_corners, short_names
from necklace.data.files import File, decode, orientations
from necklace.data.images import ImageSet


def objects(*corners: tuple[float, float, float, float], **options: Any) -> Objects:
    count = len(corners)
    values = np.array(corners, dtype=float).reshape(-1, 4), np.zeros(count, np.int64), np.zeros(count, np.uint8)
    return Objects(*values, **options)


def with_boxes(tmp_path, height: int, width: int, said: Objects, orientation: int = 1) -> tuple[ImageSet, list[str]]:
    """One image of black with the boxes' inside white, as a file that says it is turned."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for x0, y0, x1, y1 in said.corners.round().astype(int).clip(0).tolist():
        pixels[y0:y1, x0:x1] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    image = decode(buffer.getvalue())
    images = ImageSet.build([image], torch.zeros(1, 2, dtype=torch.int8), ["a.png"])
    return annotated(images, {"a.png": (File(str(path), "a.png"), said)}, 2, "train")


def corners_of(images: ImageSet) -> list[list[float]]:
    assert images.boxes is not None
    return images.boxes.xyxy.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("in_shares", [False, True])
def test_boxes_are_turned_with_their_image(tmp_path, orientation: int, in_shares: bool) -> None:
    box = (3, 2, 9, 16)
    said = objects(box)
    images, notes = with_boxes(tmp_path, 20, 12, said, orientation)
    if in_shares:  # the same, said in shares of the stored image
        file = File(str(tmp_path / "a.png"), "a.png")
        shares = objects((3 / 12, 2 / 20, 9 / 12, 16 / 20), in_shares=True)
        images, notes = annotated(images, {"a.png": (file, shares)}, 2, "train")
    ((x0, y0, x1, y1),) = corners_of(images)
    bright = images.image(0)[:, :, 0] == 255
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    assert (x0, y0, x1, y1) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert notes == (["train: images turned by EXIF, their boxes with them: 1 (first: in a.png)"] if orientation > 1 else [])


def test_boxes_drawn_on_the_turned_image_stay_where_the_annotation_says_so(tmp_path) -> None:
    box = (3, 2, 9, 10)
    images, notes = with_boxes(tmp_path, 20, 12, objects(box, stated=(12, 20)), orientation=6)
    assert images.shapes.tolist() == [[12, 20]]
    assert corners_of(images) == [list(box)]
    assert notes == [
        "train: images turned by EXIF whose annotation states the turned size, boxes taken as they are: 1 (first: in a.png)"
    ]
    images, notes = with_boxes(tmp_path, 20, 12, objects(box, stated=(20, 12)), orientation=6)
    assert corners_of(images) == [[10, 3, 18, 9]]
    images, notes = with_boxes(tmp_path, 20, 12, objects(box, stated=(40, 24)))
    assert corners_of(images) == [list(box)]
    assert notes == [
        "train: annotations that state another size than their image's, boxes taken as they are: 1 (first: in a.png)"
    ]


def test_what_is_outside_is_clipped_or_left_out_and_counted(tmp_path) -> None:
    said = objects(
        (-1, 0, 5, 5),  # by a pixel: as VOC's count from 1 makes it
        (0, 0, 30.5, 6),  # by half a pixel
        (20, 5, 31.5, 20),  # by more
        (30, 0, 40, 5),  # beside it
        (-9, 0, -2, 5),
        (4, 4, 4, 9),  # no width
        (4, 4, 9, 4.01),
    )
    images, notes = with_boxes(tmp_path, 20, 30, said)
    assert corners_of(images) == [[0, 0, 5, 5], [0, 0, 30, 6], [20, 5, 30, 20]]
    assert images.labels.tolist() == [[1, 0]]
    assert notes == [
        "train: boxes without area, left out: 2 (first: in a.png)",
        "train: boxes outside their image, left out: 2 (first: in a.png)",
        "train: boxes that reach out of their image by more than 1 pixel, clipped: 1 (first: in a.png)",
    ]


def test_an_image_may_have_no_box_or_ten_thousand(tmp_path) -> None:
    images, notes = with_boxes(tmp_path, 20, 30, objects())
    assert corners_of(images) == []
    assert images.labels.tolist() == [[0, 0]]
    assert notes == []
    many = objects(*[(x / 10, y / 10, x / 10 + 1, y / 10 + 1) for x in range(100) for y in range(100)])
    images, notes = with_boxes(tmp_path, 20, 30, many)
    assert len(corners_of(images)) == 10_000
    assert notes == []


def test_flags_decide_the_labels_and_equal_boxes_are_counted(tmp_path) -> None:
    said = Objects(
        np.array([[1, 1, 5, 5], [1, 1, 5, 5], [2, 2, 9, 9.0]]),
        np.array([1, 1, 0]),
        np.array([COUNTS, IGNORED, CROWD], np.uint8),
    )
    images, notes = with_boxes(tmp_path, 20, 30, said)
    assert images.labels.tolist() == [[-1, 1]]
    assert notes == ["train: boxes that are there twice: 1 (first: in a.png)"]


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(4, 17), st.data())
@settings(max_examples=200, deadline=None)
def test_whole_pixels_come_back_from_decimals_of_shares(height: int, width: int, decimals: int, data) -> None:
    """As YOLO's files have them: centre and size in shares, with so many decimals."""
    from necklace.data.annotated import _in_pixels

    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    cx, cy, w, h = (float(f"{value:.{decimals}f}") for value in values)
    if 0.75 * 10.0**-decimals * max(height, width) < 0.05:
        found = _in_pixels(np.array([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]]), np.array([[height, width]]))
        assert found.tolist() == [[x0, y0, x1, y1]]


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ((float("nan"), 0, 1, 1), "no finite number"),
        ((0, 0, float("inf"), 1), "no finite number"),
        ((5, 0, 4, 9), r"swapped corners: \[5, 0, 4, 9\]"),
        ((0, 9, 4, 8), "swapped"),
        ((0.1, 0.2, 0.6, 0.9), "in shares of the image's sides"),
    ],
)
def test_corners_that_make_no_box_are_refused(corners: tuple[float, float, float, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_corners(*corners)
    check_corners(0, 0, 1, 1)
    check_corners(3, 3, 3, 3)
    check_corners(-5.5, -3, 0.5, 9)


def test_names_are_those_of_the_files_where_these_are_unique() -> None:
    assert short_names(["train/a.png", "b.png"]) == ["a.png", "b.png"]
    assert short_names(["x/a.png", "y/a.png"]) == ["x/a.png", "y/a.png"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, 1, 6, 8, 9])
def test_orientations_are_those_that_decoding_applies(tmp_path, kind: str, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = tmp_path / "a"
    options: Any = {"exif": exif} if orientation else {}
    Image.new("RGB", (7, 5)).save(path, kind, **options)
    expected = orientation if orientation in (6, 8) else 1
    assert orientations([File(str(path), "a")]) == [expected]
    assert decode(path.read_bytes()).shape == ((7, 5, 3) if expected > 1 else (5, 7, 3))


def test_orientations_of_files_that_are_no_images_are_none(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"none")
    assert orientations([File(str(tmp_path / "x"), "x"), File(str(tmp_path / "y"), "y")]) == [1, 1]
