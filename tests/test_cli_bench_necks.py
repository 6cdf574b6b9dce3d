import csv
import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from necklace.cli import bench, bench_necks
from necklace.cli.bench_necks import FAMILIES, _family, _saved_bytes
from necklace.necks import FocalBlock
from necklace.necks.depthwise import DepthwiseConv

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--sizes 16x256", "16x256: must be images, channels (at least 2), height and width, as in 16x256x20x20"),
        ("--sizes 1x1x2x2", "1x1x2x2: must be images"),
        ("--sizes 2x8x0x4", "2x8x0x4: must be images"),
        ("--dtypes float64", "invalid choice: 'float64'"),
        ("--rounds 1", "--rounds 1: must be at least 2, for quartiles"),
        ("--device tpu", "invalid choice: 'tpu'"),
    ],
)
def test_a_wrong_command_line_is_answered_in_a_line(line: str, words: str) -> None:
    output = io.StringIO()
    with redirect_stderr(output), pytest.raises(SystemExit) as end:
        bench.main(["necks", *line.split()])
    assert end.value.code == 2
    assert words in output.getvalue()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(SystemExit, match="error: bench necks: --device cuda: this machine has no CUDA device"):
        bench.main(["necks", "--device", "cuda"])


@pytest.mark.usefixtures("any_load")
def test_the_table_holds_every_way_of_every_neck(tmp_path: Path) -> None:
    dtypes = ["float32", "bfloat16"]
    bench.main(["necks", "--sizes", "2x8x6x5", "--dtypes", *dtypes, "--rounds", "2", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.md", "table.png"]
    text = (tmp_path / "table.csv").read_text().splitlines()
    header = [line for line in text if line.startswith("# ")]
    for words in ("torch.mm", "1x1 convolution", "median and quartiles of 2 rounds"):
        assert any(words in line for line in header), words
    rows = list(csv.DictReader(line for line in text if not line.startswith("# ")))
    ways = {(neck, way) for neck, own in FAMILIES.items() for way in own}
    for dtype in dtypes:
        both = [row for row in rows if row["type"] == dtype and row["direction"] == "forward+backward"]
        assert {(row["neck"], row["way"]) for row in both} == ways
        for neck in FAMILIES:
            assert any(row["neck"] == neck and float(row["ratio"]) == 1 for row in both)
    for row in rows:
        assert float(row["quartile 1"]) <= float(row["ms"]) <= float(row["quartile 3"])
        assert (row["saved MiB"] == "") == (row["direction"] == "forward")
    with Image.open(tmp_path / "table.png") as picture:
        assert picture.size[0] > 400


@pytest.mark.parametrize("family", FAMILIES)
def test_all_ways_of_a_neck_compute_the_same(family: str) -> None:
    found = []
    for build, layout in FAMILIES[family].values():
        torch.manual_seed(0)
        neck = build(64)
        x = torch.randn(4, 64, 9, 9, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
        y = neck(x.requires_grad_())
        (y * y).sum().backward()
        found.append([y, x.grad, *(parameter.grad for parameter in neck.parameters())])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert (one - two).abs().max() <= 1e-4 * one.abs().max()


def test_the_plain_form_has_no_layer_of_ours() -> None:
    block = bench_necks.plain(FocalBlock(8))
    assert not any(isinstance(module, DepthwiseConv) for module in block.modules())
    assert block.state_dict().keys() == FocalBlock(8).state_dict().keys()


def test_saved_bytes_count_each_memory_once() -> None:
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    # SiLU keeps its input, which the convolution made; the convolution keeps x and its weight, which are given.
    assert _saved_bytes(nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU(), nn.SiLU()), x, "float32") == 2 * x.numel() * 4


@pytest.mark.usefixtures("any_load")
def test_multiply_adds_and_shares() -> None:
    rows = _family("conv", (3, 8, 4, 5), "float32", CPU, 2, rate=2.0)
    for row, passes in zip(rows, (1, 3), strict=True):
        assert row.macs == 3 * 4 * 5 * 2 * 8 * 8
        assert row.share_of_best_rate == pytest.approx(passes * row.macs / 1e6 / row.ms / 2.0)
    assert rows[0].saved_mib is None
    assert rows[1].saved_mib
