import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from necklace.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() is True

def step():
    kept = [torch.ones(n * 2**20) for n in (1, 4, 12)]

for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another allocator")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for way in ("as it is", "keep"):
        done = subprocess.run([sys.executable, "-c", CODE, way], capture_output=True, text=True, check=True, timeout=120)
        faults[way] = int(done.stdout)
    assert faults["keep"] < 100
    assert faults["as it is"] > 5 * 2**10 * 12, "glibc then keeps freed memory by itself"  # 12 of 17 x 4 MiB in pages of 4 KiB
