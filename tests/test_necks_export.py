"""Every neck leaves torch: ONNX at any size, and torch.compile."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from necklace.necks import (
    SPP,
    SPPF,
    ConvNeck,
    FocalBlock,
    FocalModulation,
    GlobalContext,
    MeanConcat,
    NoNeck,
    SelfAttention,
)

DW_CONVNET: dict[str, Any] = {"interaction": "dw_convnet", "gating": False, "global_context": False, "aggregate": "top"}
NECKS = {
    "none": lambda: NoNeck(8),
    "conv": lambda: ConvNeck(8),
    "spp": lambda: SPP(8),
    "sppf": lambda: SPPF(8),
    "focal": lambda: FocalModulation(8, use_postln_in_modulation=True, normalize_modulator=True),
    "focal_avg_pool": lambda: FocalModulation(8, context="avg_pool", interaction="add"),
    "focal_level0": lambda: FocalModulation(8, focal_level=0, gating=False),
    "focal_global_norm": lambda: FocalModulation(8, global_norm="batch", global_scale=3.0),
    "gc": lambda: GlobalContext(8),
    "attention": lambda: SelfAttention(8),
    "mean_concat": lambda: MeanConcat(8),
    "focal_block": lambda: FocalBlock(8, layerscale=0.5),
    "dw_convnet": lambda: FocalModulation(8, kernels=[13], **DW_CONVNET),
}


def seeded(name: str) -> nn.Module:
    torch.manual_seed(0)
    neck = NECKS[name]().eval()
    for tensor in [*neck.parameters(), *(b for b in neck.buffers() if b.is_floating_point())]:
        tensor.data.uniform_(0.1, 0.6)
    return neck


@pytest.mark.slow
@pytest.mark.parametrize("name", NECKS)
def test_onnx_runs_at_other_sizes(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    neck = seeded(name)
    path = tmp_path / "neck.onnx"
    dynamic = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        neck,
        (torch.randn(2, 8, 6, 7),),
        str(path),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (inputs,) = session.get_inputs()
    for shape in [(2, 8, 6, 7), (3, 8, 11, 5), (1, 8, 1, 1), (5, 8, 1, 9), (1, 8, 20, 20)]:
        x = torch.randn(*shape)
        (y,) = session.run(None, {inputs.name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y), neck(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)
def test_compiles() -> None:
    neck = seeded("focal")
    x = torch.randn(2, 8, 6, 7)
    with torch.no_grad():
        y = torch.compile(neck, fullgraph=True)(x)
        torch.testing.assert_close(y, neck(x), rtol=1e-4, atol=1e-5)
