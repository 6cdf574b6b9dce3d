import subprocess
import sys
from pathlib import Path

import necklace.results

HEAVY = {"torch", "pytorch_lightning", "lightning", "torchvision", "torchmetrics", "timm", "wandb"}


def test_results_are_made_without_torch() -> None:
    """A table of finished runs does not wait for libraries that take seconds to import."""
    modules = sorted(path.stem for path in Path(necklace.results.__file__).parent.glob("*.py") if path.stem != "__init__")
    assert {"analysis", "report", "verify", "write"} <= set(modules)
    code = "".join(f"import necklace.results.{module}\n" for module in modules)
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "scipy" in loaded
    assert not HEAVY & loaded
