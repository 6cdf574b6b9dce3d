"""Results outlive the code's growth: a finished study, and the package edited under it, in a copy."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of drawn images, of the rows spp, focal and a user's own neck, beside a copy of the package."""
    folder = tmp_path_factory.mktemp("growth")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name, text in MINE.items():
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name).write_text(text)
    (folder / "experiments" / "tiny").mkdir(parents=True)
    (folder / "experiments" / "tiny" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    command(folder)
    return folder


@pytest.fixture
def edited(finished: Path, tmp_path: Path) -> Callable[..., str]:
    """Gives the plan after edits, each a file and the text that is added at its end; other tests see the files as before."""
    folder = Path(shutil.copytree(finished, tmp_path / "growth"))

    def plan_after(*edits: tuple[str, str]) -> str:
        for name, text in edits:
            with (folder / name).open("a") as file:
                file.write(text)
        return command(folder, "--plan")

    return plan_after


def test_code_and_options_that_are_new_leave_a_study_done(edited: Callable[..., str]) -> None:
    neck = "from torch import nn\n\n\nclass ASPP(nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
    output = edited(
        ("src/necklace/necks/aspp.py", neck),
        ("src/necklace/necks/__init__.py", "\nfrom necklace.necks.aspp import ASPP as ASPP\n"),
        ("src/necklace/configs/neck/aspp.yaml", "_target_: necklace.necks.ASPP\n"),
        # Drawn images do not come from there.
        ("src/necklace/data/voc.py", "\nADDED_BY_A_TEST = 1\n"),
        ("src/necklace/results/table.py", "\nADDED_BY_A_TEST = 1\n"),
        ("src/necklace/cli/study.py", "\nADDED_BY_A_TEST = 1\n"),
        # An option with the value that stands for "as before".
        ("src/necklace/configs/backbone/cifar_resnet.yaml", "\nstages: [-1]\n"),
        ("src/necklace/identity.py", '\nADDED["backbone.stages"] = [-1]\n'),
    )
    assert "tiny: 3 runs in 3 rows: 3 done\n" in output


def test_an_option_without_an_entry_makes_other_runs(edited: Callable[..., str]) -> None:
    output = edited(("src/necklace/configs/backbone/cifar_resnet.yaml", "\nstages: [-1]\n"))
    assert "tiny: 3 runs in 3 rows: 3 missing\n" in output


def test_an_edit_of_a_neck_makes_its_rows_stale_and_no_other(edited: Callable[..., str]) -> None:
    output = edited(("src/necklace/necks/focal.py", "\nADDED_BY_A_TEST = 1\n"))
    assert "tiny: 3 runs in 3 rows: 2 done, 1 stale\n  focal: stale: seed 0\n" in output
    assert "stale, since the code has changed: necklace.necks.focal\n" in output


def test_an_edit_of_a_users_helper_module_makes_that_row_stale(edited: Callable[..., str]) -> None:
    output = edited(("mine/mine_layers.py", "SCALE = 2.0\n"))
    assert "tiny: 3 runs in 3 rows: 2 done, 1 stale\n  mine: stale: seed 0\n" in output
