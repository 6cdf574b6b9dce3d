import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from necklace.necks import FocalModulation, focal_triton

ROOT = Path(__file__).parents[1]


def test_the_kernels_give_the_plain_forms_output_and_gradients_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="torch for a CPU comes without Triton")
    command = [sys.executable, "-m", "tests.focal_triton_check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["errors"]) == 7
    for name, errors in found["errors"].items():
        assert len(errors) >= 3
        assert max(errors) < (3e-2 if name == "bfloat16" else 3e-6), name
    assert found["some"] == [False, False, False, True]


def test_nothing_imports_triton_on_a_cpu_and_the_switch_is_off_by_itself() -> None:
    code = "import sys, torch; from necklace.necks import FocalModulation, focal_triton\n"
    code += "with focal_triton.switched_on(): y = FocalModulation(4)(torch.randn(1, 4, 5, 5)); y.sum().backward()\n"
    code += "print('triton' in sys.modules, focal_triton._on)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"], done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(torch.float32, (16, 256, 20, 20)), (torch.bfloat16, (16, 256, 20, 20)), (torch.float32, (3, 70, 7, 9))],
    ids=str,
)
def test_on_a_gpu_the_kernels_give_what_the_plain_form_gives(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if why := focal_triton.missing():
        pytest.skip(why)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    neck = FocalModulation(shape[1], focal_level=3).cuda().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(shape, device="cuda").contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for kernels in (False, True):
        neck.zero_grad()
        x.grad = None
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            if kernels:
                with focal_triton.switched_on():
                    y = neck(x)
            else:
                y = neck(x)
        assert ("_Levels" in _functions(y)) == kernels
        y.float().square().mean().backward()
        results.append([y.detach(), x.grad, *(parameter.grad for parameter in neck.parameters())])
    for due, got in zip(*results, strict=True):
        assert due is not None
        assert got is not None
        gap = (got.float() - due.float()).abs().max() / due.float().abs().max()
        assert gap <= (1e-4 if dtype == torch.float32 else 5e-2)


def _functions(y: torch.Tensor) -> set[str]:
    """Names of the functions that a result came from."""
    found, waiting = set(), [y.grad_fn]
    while waiting:
        function = waiting.pop()
        if function is not None and function not in found:
            found.add(function)
            waiting += [following for following, _ in function.next_functions]
    return {function.name().removesuffix("Backward") for function in found}
