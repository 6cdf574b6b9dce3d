"""Train and test one run, or one of each combination with -m: python train.py neck=focal."""

import sys
from importlib.util import find_spec
from pathlib import Path

# With two clones and one environment, edits of this one could have no effect.
own, spec = Path(__file__).resolve().parent / "src", find_spec("necklace")
found = Path(spec.origin).resolve().parent if spec and spec.origin else None
if found != (own / "necklace").resolve():
    here = f"not {own / 'necklace'}: pip install -e {own.parent}, or set PYTHONPATH={own}"
    sys.exit(f"error: the necklace that Python finds is {found or 'none'}, {here}")

from necklace.cli.stopping import stop_at_once

if __name__ == "__main__":
    stop_at_once()

from necklace.cli.train import start

if __name__ == "__main__":
    start()
