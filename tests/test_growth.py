"""Results outlive the code's growth: a finished study, and the package edited under it, in a copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

STUDY = {
    "question": "Does it last?",
    "baseline": "spp",
    "seeds": [0],
    "overrides": {
        "data.source.train": 60,
        "data.source.test": 20,
        "data.size": 24,
        "backbone.width": 4,
        "batch_size": 16,
        "epochs": 1,
        "logger": "none",
    },
    "rows": [{"neck": ["spp", "focal", "mine"]}],
}
MINE = {
    "mine_neck.py": "from mine_layers import SCALE\nfrom necklace.necks import ConvNeck\n\n\nclass Mine(ConvNeck):\n"
    "    def forward(self, x):\n        return SCALE * super().forward(x)\n",
    "mine_layers.py": "SCALE = 1.0\n",
    "neck/mine.yaml": "_target_: mine_neck.Mine\nwidth: 4\n",
}


def command(folder: Path, *arguments: str) -> str:
    """`necklace ablate tiny` of the copy of the package, in a fresh process; gives what it prints."""
    path = os.pathsep.join([str(folder / "src"), str(folder / "mine")])
    code = "import sys; from necklace.cli.main import main; sys.argv[0] = 'necklace'; main()"
    line = [sys.executable, "-c", code, "ablate", "tiny", *arguments, "--config-dir", "mine"]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


NEW_NECK = "from torch import nn\n\n\nclass ASPP(nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
ADDED = ("src/necklace/configs/backbone/cifar_resnet.yaml", "\nadded: [-1]\n")
# What is edited, each a file and the text that is added at its end, and what the plan then says.
EDITS = {
    "code and options that are new leave a study done": (
        [
            ("src/necklace/necks/aspp.py", NEW_NECK),
            ("src/necklace/necks/__init__.py", "\nfrom necklace.necks.aspp import ASPP as ASPP\n"),
            ("src/necklace/configs/neck/aspp.yaml", "_target_: necklace.necks.ASPP\n"),
            # Drawn images do not come from there.
            ("src/necklace/data/voc.py", "\nADDED_BY_A_TEST = 1\n"),
            ("src/necklace/results/table.py", "\nADDED_BY_A_TEST = 1\n"),
            ("src/necklace/cli/study.py", "\nADDED_BY_A_TEST = 1\n"),
            # An option with the value that stands for "as before".
            ADDED,
            ("src/necklace/identity.py", '\nADDED["backbone.added"] = [-1]\n'),
        ],
        "tiny: 3 runs in 3 rows: 3 done\n",
    ),
    "an option without an entry makes other runs": ([ADDED], "tiny: 3 runs in 3 rows: 3 missing\n"),
    "an edit of a neck makes its rows stale and no other": (
        [("src/necklace/necks/focal.py", "\nADDED_BY_A_TEST = 1\n")],
        "tiny: 3 runs in 3 rows: 2 done, 1 stale\n  focal: stale: seed 0\n"
        "  stale, trained with other code: necklace.necks.focal\n",
    ),
    "an edit of a user's helper module makes that row stale": (
        [("mine/mine_layers.py", "SCALE = 2.0\n")],
        "tiny: 3 runs in 3 rows: 2 done, 1 stale\n  mine: stale: seed 0\n",
    ),
}


def finished(folder: Path) -> Path:
    """A finished study of drawn images, of the rows spp, focal and a user's own neck, beside a copy of the package."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name, text in MINE.items():
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name).write_text(text)
    (folder / "experiments" / "tiny").mkdir(parents=True)
    (folder / "experiments" / "tiny" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    command(folder)
    return folder


def test_results_outlive_edits(tmp_path: Path) -> None:
    """One study for all edits: each is made in a copy of it."""
    folder = finished(tmp_path / "growth")
    for number, (what, (edits, expected)) in enumerate(EDITS.items()):
        copy = Path(shutil.copytree(folder, tmp_path / str(number)))
        for name, text in edits:
            with (copy / name).open("a") as file:
                file.write(text)
        assert expected in command(copy, "--plan"), what
