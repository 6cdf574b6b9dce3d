"""Whole studies through the command: one that is killed, raced or interrupted ends as if it had not been."""

import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl

import necklace.cli.study
import necklace.record
import necklace.results.analysis
import necklace.study.store
from necklace.cli.ablate import main
from necklace.config import Composer
from necklace.identity import hash_of_name
from necklace.results.analysis import analyse
from necklace.results.write import write_study
from necklace.study.plan import make_plan
from necklace.study.study_file import read_study
from tests.conftest import SMALL, initialised, synthetic_record, the_composer, write_synthetic
from tests.synthetic import synthetic_runs, synthetic_study, with_classes
from tests.warm import WarmProcess, warm_up

ROOT = Path(__file__).parents[1]
USER = Path(__file__).parent / "user"
# Moments that tests/user/deadly.py can end everything at.
PHASES = ("step", "history", "in checkpoint", "after best", "after last", "before record", "in record", "after record")

STUDY = {
    "question": "Does it end well?",
    "baseline": "deadly, width=8",
    "seeds": [0, 1],
    "overrides": {
        "data.source.train": 100,
        "data.source.test": 20,
        "data.size": 24,
        "backbone.width": 4,
        "epochs": 2,
        "batch_size": 32,
        "logger": "none",
    },
    "rows": [{"neck": "deadly", "neck.width": [8, 12, 16]}],
}


def ablate(folder: Path, *arguments: str, user: Path = USER) -> WarmProcess:
    # One thread whatever the slots: in how many parts a sum is taken changes its rounding, and with it the weights.
    threads = [] if "--reproduce" in arguments else ["hydra.launcher.threads=1"]
    words = ["tiny", *threads, *arguments, "--config-dir", str(user)]
    return WarmProcess(ROOT / "ablate.py", *words, cwd=folder, env=environment(user), joined=True)


def environment(user: Path) -> dict[str, str]:
    path = os.pathsep.join([str(user), str(ROOT / "src")])  # this checkout, whatever is installed
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def here(folder: Path, *arguments: str) -> tuple[int, str]:
    """The same within this process, which has imported everything and keeps the launcher's server warm."""
    threads = [] if {"--reproduce", "--metric"} & set(arguments) else ["hydra.launcher.threads=1"]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.chdir(folder)
        patch.syspath_prepend(str(USER))
        patch.setenv("COLUMNS", "200")
        try:
            main(["tiny", *arguments, *threads, "--config-dir", str(USER)])
            raise AssertionError("the command ends with an exit code")
        except SystemExit as end:
            code = end.code
    return (code, output.getvalue()) if isinstance(code, int) else (1, f"{output.getvalue()}{code}")


def new_study(folder: Path, **changes) -> Path:
    (folder / "experiments" / "tiny").mkdir(parents=True)
    (folder / "experiments" / "tiny" / "study.yaml").write_text(yaml.safe_dump(STUDY | changes))
    return folder


def outcome(folder: Path) -> dict[str, tuple]:
    """The result of each run, in all that must not depend on when it was interrupted."""
    records = [json.loads(path.read_text()) for path in (folder / "outputs" / "tiny").glob("*/record.json")]
    curves = {path.parent.name: path.read_text() for path in (folder / "outputs" / "tiny").glob("*/history.csv")}
    return {
        record["name"]: (
            record["weights_hash"],
            record["metrics"],
            record["test_correct"],
            record["steps"],
            [line.rpartition(",")[0] for line in curves[record["name"]].splitlines()],  # the last column is the seconds
        )
        for record in records
    }


def fits(folder: Path) -> list[str]:
    path = folder / "fits"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()  # before a study in this process starts a server for its runs alone


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_study(tmp_path_factory.mktemp("undisturbed"))
    code, output = here(folder)
    assert code == 0, output
    assert len(fits(folder)) == len(outcome(folder)) == 6
    return folder


@pytest.mark.slow
def test_a_study_killed_at_ten_moments_ends_as_if_it_had_not_been(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    draw = random.Random(0)
    # Few runs may be done before the last moment: what happens once in a run is waited for once.
    often = ("step", "history", "in checkpoint", "after last")
    moments = [(phase, draw.randint(1, 2) if phase in often else 1) for phase in PHASES]
    moments += [("step", draw.randint(3, 4)), ("in checkpoint", draw.randint(3, 4))]
    draw.shuffle(moments)
    for phase, number in moments:
        (folder / "kill").write_text(f"{phase} {number}")
        (folder / "reached").unlink(missing_ok=True)
        process = ablate(folder, "hydra.launcher.slots=1")
        (folder / "pid").write_text(str(process.pid))
        ended = process.finish()
        assert ended.returncode == -signal.SIGKILL, f"{phase} {number}\n{ended.stdout}"
    (folder / "kill").unlink()
    code, output = here(folder)
    assert code == 0, output
    assert outcome(folder) == outcome(undisturbed)
    assert not list(folder.glob("outputs/tiny/*/FAILED"))
    code, output = here(folder, "--verify")
    assert code == 0, output
    assert "are what the 6 records give" in output


@pytest.mark.slow
def test_two_lost_records_are_two_runs(undisturbed: Path) -> None:
    before, records = outcome(undisturbed), sorted(undisturbed.glob("outputs/tiny/*/record.json"))
    lines = len(fits(undisturbed))
    records[1].unlink()
    records[4].unlink()
    code, output = here(undisturbed)
    assert code == 0
    assert "2 to run" in output
    assert sorted(fits(undisturbed)[lines:]) == sorted(
        str(path.parent.relative_to(undisturbed)) for path in (records[1], records[4])
    )
    assert outcome(undisturbed) == before
    assert "6 done" in here(undisturbed, "--plan")[1]


@pytest.mark.slow
def test_runs_see_the_images_that_the_plan_has_drawn(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path, overrides=STUDY["overrides"] | {"data.source._target_": "noted.Noted"})
    code, output = here(folder)
    assert code == 0, output
    assert (folder / "drawn").read_text().split() == ["train", "val", "test"]
    # The names say that the source is another.
    found, expected = ({hash_of_name(name): end for name, end in outcome(of).items()} for of in (folder, undisturbed))
    assert found == expected


@pytest.mark.slow
def test_two_at_once_share_the_work(undisturbed: Path, tmp_path: Path) -> None:
    raising = {"neck": "deadly", "neck.width": 20, "neck.raises": True}
    folder = new_study(tmp_path, rows=[*STUDY["rows"], raising])
    both = [ablate(folder) for _ in range(2)]
    ended = [process.finish() for process in both]
    assert [one.returncode for one in ended] == [1, 1], ended
    assert len(fits(folder)) == 8  # six, and the two that raise
    assert outcome(folder) == outcome(undisturbed)
    assert "are what the 6 records give" in here(folder, "--verify")[1]


@pytest.mark.slow
def test_a_run_that_raises_is_one_row_of_the_table(tmp_path: Path) -> None:
    rows = [{"neck": "deadly", "neck.width": [8, 12]}, {"neck": "deadly", "neck.width": 16, "neck.raises": True}]
    folder = new_study(tmp_path, rows=rows, seeds=[0])
    code, output = here(folder)
    assert code == 1
    assert len(outcome(folder)) == 2
    (failed,) = folder.glob("outputs/tiny/*/FAILED")
    assert "Traceback" in failed.read_text()
    assert "this neck raises" in failed.read_text()
    assert "this neck raises" in output
    table = (folder / "experiments" / "tiny" / "table.md").read_text()
    row = next(line for line in table.splitlines() if "raises=True" in line)
    assert "| 0/1 | failed |" in row
    # It is not run again unless asked to.
    lines = len(fits(folder))
    assert "1 failed" in here(folder)[1]
    assert len(fits(folder)) == lines
    here(folder, "--retry-failed")
    assert len(fits(folder)) == lines + 1


@pytest.mark.slow
def test_a_run_that_dies_alone_is_marked_and_continues_when_asked_to(undisturbed: Path, tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    (folder / "kill").write_text("after last 2")
    code, output = here(folder, "hydra.launcher.slots=1")
    assert code == 1
    (failed,) = folder.glob("outputs/tiny/*/FAILED")
    assert "SIGKILL" in failed.read_text()
    # Printed when it died, while others were still to come.
    lines = [line for line in output.splitlines() if line.startswith("[")]
    assert len(lines) == 6
    (place,) = [
        number for number, line in enumerate(lines) if "FAILED: RuntimeError: the process" in line and "SIGKILL" in line
    ]
    assert place < 5
    assert len(outcome(folder)) == 5
    (folder / "kill").unlink()
    code, output = here(folder, "--retry-failed")
    assert code == 0, output
    assert outcome(folder) == outcome(undisturbed)
    record = json.loads((failed.parent / "record.json").read_text())
    assert record["resumed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_rest_continues_later(
    undisturbed: Path, tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    folder = new_study(tmp_path)
    process = ablate(folder, "hydra.launcher.slots=1")
    deadline = time.time() + 120
    while len(fits(folder)) < 2 and process.is_alive() and time.time() < deadline:
        time.sleep(0.05)
    assert process.is_alive(), process.finish().stdout
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        os.kill(process.pid, number)
    ended = process.finish()
    assert ended.returncode == expected
    assert ended.stdout.count("stopped; the same command goes on from here") == 1
    assert "Traceback" not in ended.stdout
    assert not list(folder.glob("outputs/tiny/*/FAILED"))
    assert len(list(folder.glob("outputs/tiny/*/record.json"))) < 6
    code, output = here(folder)
    assert code == 0, output
    assert outcome(folder) == outcome(undisturbed)


@pytest.mark.slow
def test_what_other_code_has_trained_is_stale_and_trained_again_when_asked_to(tmp_path: Path) -> None:
    user = Path(shutil.copytree(USER, tmp_path / "user", ignore=shutil.ignore_patterns("__pycache__")))
    rows = [{"neck": "none"}, {"neck": "deadly", "neck.width": [8, 12]}]  # one that the edit below does not touch
    folder = new_study(tmp_path / "work", rows=rows, baseline="none", seeds=[0])
    first = ablate(folder, user=user).finish()
    assert first.returncode == 0, first.stdout
    before = outcome(folder)
    neck, table = user / "deadly.py", folder / "experiments" / "tiny" / "table.md"
    neck.write_text(neck.read_text() + "\n\ndef not_called() -> None: ...\n")
    repeated = ablate(folder, "--reproduce", "3", user=user).finish()
    assert repeated.returncode == 0, repeated.stdout
    assert "2 of 3 runs are stale" in table.read_text()
    (told,) = (line for line in table.read_text().splitlines() if ": equal weights, bit for bit (" in line)
    assert told.count("deadly") == told.count("seed 0") == 2
    verified = ablate(folder, "--verify", user=user).finish()
    assert verified.returncode == 0, verified.stdout
    lines = len(fits(folder))
    neck.write_text(neck.read_text().replace("torch.nn.Dropout(0.2)", "torch.nn.Dropout(0.3)"))
    costs = folder / "experiments" / "tiny" / "records" / "costs.json"
    measured = costs.read_text()
    assert ablate(folder, "--table", user=user).finish().returncode == 0
    assert costs.read_text() == measured  # of stale runs, too: it belongs to what trained them
    assert "equal weights" not in table.read_text()
    again = ablate(folder, "--rerun-stale", user=user).finish()
    assert again.returncode == 0, again.stdout
    assert "3 runs in 3 rows: 1 done, 2 stale" in again.stdout
    assert len(fits(folder)) == lines + 2
    after = outcome(folder)
    assert {name for name in before if before[name] != after[name]} == {name for name in before if "deadly" in name}
    assert not list(folder.rglob("superseded.json"))


@pytest.mark.slow
def test_a_table_of_what_a_colleague_ran_and_more_seeds(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(undisturbed / "experiments", folder / "experiments")
    table = folder / "experiments" / "tiny" / "table.md"
    before = table.read_text()
    code, output = here(folder, "--table")
    assert code == 0, output
    assert "6 missing" in output  # here
    assert "6 of them were trained elsewhere and are in records/" in output
    assert table.read_text() == before
    for arguments, message in (
        (["--seeds", "1"], "holds 3 results that these overrides or seeds have no place for"),
        (["epochs=1", "--table"], "holds 6 results"),
        (["rerun=true"], "rerun=true: the study sets this"),
        (["+data.foo=1"], "data.foo: nothing reads it"),
        (["--reproduce", "1", "hydra.launcher.slots=1"], "data.KEY=VALUE only"),
        (["--reproduce", "7"], "must be between 1 and the 6 runs"),
    ):
        code, output = here(folder, *arguments)
        assert code == 1
        assert message in output
    assert table.read_text() == before
    # --verify says what study.yaml has changed.
    study = folder / "experiments" / "tiny" / "study.yaml"
    asked = study.read_text()
    study.write_text(yaml.safe_dump(yaml.safe_load(asked) | {"overrides": STUDY["overrides"] | {"epochs": 7}}))
    code, output = here(folder, "--verify")
    assert code == 1
    assert "study.yaml: overrides is" in output
    study.write_text(asked)
    # Results of more seeds stay where a command does not name these seeds.
    header = folder / "experiments" / "tiny" / "records" / "study.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps(content | {"arguments": ["--seeds", "2"]}))
    study.write_text(yaml.safe_dump(yaml.safe_load(asked) | {"seeds": [0]}))
    code, output = here(folder)
    assert code == 1
    assert "holds 3 results of ablate.py tiny --seeds 2" in output
    header.write_text(json.dumps(content))
    study.write_text(asked)
    # In a process of its own: what it trains with is what is imported there.
    command = [sys.executable, str(ROOT / "ablate.py"), "tiny", "--reproduce", "1", "--config-dir", str(USER)]
    cold = subprocess.run(command, cwd=folder, env=environment(USER), capture_output=True, text=True, timeout=240)
    assert "holds, bitwise: equal weights" in cold.stdout, cold.stdout + cold.stderr
    assert cold.returncode == 0


def test_a_failure_message_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = new_study(tmp_path, rows=[{"neck": "conv"}], baseline="conv", seeds=[0])
    with initialised():
        plan = make_plan(
            read_study(folder / "experiments" / "tiny" / "study.yaml"),
            [f"outputs={folder / 'outputs'}"],
            composer=the_composer(),
        )
    run = plan.root / plan.runs[0].spec.name
    run.mkdir(parents=True)
    (run / "FAILED").write_text("ValueError: [/data/x.jpg] is [bold] no image")
    code, output = here(folder, "--plan")
    assert code == 0, output
    assert "tiny: 1 runs in 1 rows: 1 failed" in output
    assert "[/data/x.jpg] is [bold] no image" in output


def finished_study(folder: Path) -> Path:
    """A finished study of four rows and one seed, with made-up records; gives its study.yaml."""
    study = new_study(folder, rows=[{"neck": ["none", "conv", "spp", "sppf"]}], baseline="none", seeds=[0])
    path = study / "experiments" / "tiny" / "study.yaml"
    with initialised():
        plan = make_plan(read_study(path), [f"outputs={folder / 'outputs'}"], composer=the_composer())
    for index, run in enumerate(plan.runs):
        correct = np.random.default_rng(index).random(20) < 0.5
        record = synthetic_record(SMALL, run.seed, correct, digest=run.spec.identity["data"]["digest"])
        about: dict[str, Any] = {
            "name": run.spec.name,
            "hash": run.spec.hash,
            "code": run.spec.code,
            "choices": run.spec.choices,
        }
        about["weights_hash"] = f"{run.spec.hash:0>64}"
        config = run.spec.resolved | {"outputs": "outputs"}
        record = dataclasses.replace(record, config=config, identity=run.spec.identity, **about)
        write_synthetic(record, plan.root)
    code, output = here(folder, "--table")
    assert code == 0, output
    return path


def records_of(folder: Path) -> list[str]:
    """Name of the neck of each record in a folder."""
    return sorted(path.name.split("_cifar_resnet_")[1].partition("_")[0] for path in folder.glob("*_s0_*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_study_yaml_no_longer_asks_for_is_kept_and_comes_back(tmp_path: Path, elsewhere: bool) -> None:
    path = finished_study(tmp_path)
    kept, table = path.parent / "records", path.with_name("table.md")
    before = {file.name: file.read_bytes() for file in [table, *kept.iterdir()]}
    if elsewhere:  # a colleague has trained it
        shutil.rmtree(tmp_path / "outputs")
    asked = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(asked) | {"rows": [{"neck": ["none", "spp"]}]}))
    code, output = here(tmp_path, "--table")
    assert code == 0, output
    assert "2 results that study.yaml no longer asks for are in experiments/tiny/records/retired" in output
    assert records_of(kept) == ["none", "spp"]
    assert records_of(kept / "retired") == ["conv", "sppf"]
    assert "| conv |" not in table.read_text()
    assert "2 of the comparisons are not in the table any more, and count all the same: conv, sppf." in table.read_text()
    code, output = here(tmp_path, "--verify")
    assert code == 0, output
    assert "are what the 2 records give" in output
    # The same command says it once.
    assert "no longer asks" not in here(tmp_path, "--table")[1]
    path.write_text(asked)
    _, output = here(tmp_path, "--plan")
    assert ("4 missing" in output, "4 of them were trained elsewhere" in output) == (elsewhere, elsewhere)
    code, output = here(tmp_path, "--table")
    assert code == 0, output
    assert not list((kept / "retired").iterdir())
    (kept / "retired").rmdir()
    assert {file.name: file.read_bytes() for file in [table, *kept.iterdir()]} == before


@pytest.mark.slow
def test_overrides_and_seeds_retire_nothing(tmp_path: Path) -> None:
    path = finished_study(tmp_path)
    study = yaml.safe_load(path.read_text())
    before = sorted(path.parent.rglob("*"))
    code, output = here(tmp_path, "--table", "epochs=1")
    assert code == 1
    assert "holds 4 results that these overrides or seeds have no place for" in output
    header = path.parent / "records" / "study.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps(content | {"arguments": ["epochs=2"]}))
    # With the overrides that were given before, it is study.yaml that no longer asks for them.
    path.write_text(yaml.safe_dump(study | {"rows": [{"neck": ["none", "conv", "spp"]}]}))
    code, output = here(tmp_path, "--table")
    assert code == 1
    assert "holds 1 results of ablate.py tiny epochs=2" in output
    assert sorted(path.parent.rglob("*")) == before
    code, output = here(tmp_path, "--table", "epochs=2")
    assert code == 0, output
    assert "1 results that study.yaml no longer asks for" in output


def test_another_metric_is_a_table_that_is_only_printed(tmp_path: Path) -> None:
    runs = [with_classes(run, [190, 10], [180, 5], [185, 15]) for run in synthetic_runs()]
    study = synthetic_study(runs)
    write_study(study, analyse(study), tmp_path / "experiments" / "tiny")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, shown = here(tmp_path, "--metric", "test/balanced_acc")
    assert code == 0, shown
    assert "test/balanced_acc %" in shown
    assert shown.count("72.37 ± 0.00") == 5
    assert "50.00 ± 0.00" in here(tmp_path, "--metric", "test/class_acc/b")[1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    code, shown = here(tmp_path, "--metric", "test/map")
    assert code != 0
    assert "no run has the metric test/map; there are: test/acc, test/balanced_acc, test/class_acc/a, test/class_acc/b" in shown


def test_a_study_of_older_words_is_planned_as_before(tmp_path: Path) -> None:
    folder = new_study(tmp_path)
    path = folder / "experiments" / "tiny" / "study.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({"cells" if key == "rows" else key: value for key, value in content.items()}))
    code, output = here(folder, "plan")
    assert code == 0, output
    assert "tiny: 6 runs in 3 rows: 6 missing" in output
    assert "6 to run" in output


@pytest.mark.slow
def test_the_parent_composes_each_row_once_reads_each_record_once_and_analyses_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_study(tmp_path, rows=[{"neck": ["none", "conv", "spp", "sppf"]}], baseline="none", seeds=[0])
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str, label: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def counted(*arguments, **options):
            counts[label(*arguments)] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    count(Composer, "compose", lambda *_: "composed")
    count(ConfigLoaderImpl, "load_configuration", lambda *_: "loaded")
    count(necklace.results.analysis, "analyse", lambda *_: "analysed")
    for module in (necklace.record, necklace.study.store):
        count(module, "parse_record", lambda content, *_: f"read {content['name']}")
    code, output = here(folder)
    assert code == 0, output
    names = [path.parent.name for path in folder.glob("outputs/tiny/*/record.json")]
    assert counts == {"composed": 4, "loaded": 4, "analysed": 1} | {f"read {name}": 1 for name in names}
    # Once all is done, the table takes no more than that either.
    counts.clear()
    code, output = here(folder, "--table")
    assert code == 0, output
    assert counts == {"composed": 4, "loaded": 4, "analysed": 1} | {f"read {name}": 1 for name in names}


def test_a_study_without_wandb_among_its_loggers_does_not_need_it(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "wandb.py").write_text("raise ImportError('wandb cannot be imported')\n")
    folder = new_study(tmp_path / "work", rows=[{"neck": "none"}], baseline="none", seeds=[0])
    command = [sys.executable, ROOT / "ablate.py", "tiny", "hydra.launcher.threads=1", "epochs=1"]
    variables = environment(USER)
    variables["PYTHONPATH"] = os.pathsep.join([str(blocked), variables["PYTHONPATH"]])
    for more, code, said in (([], 0, "report.html"), (["--wandb-sync"], 1, "wandb cannot be imported")):
        ended = subprocess.run([*command, *more], cwd=folder, env=variables, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert said in ended.stdout + ended.stderr
