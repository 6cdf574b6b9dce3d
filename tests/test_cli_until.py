"""Studies that run until they are decided: killed, raced, out of time, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults import killed
from tests.test_cli_study import ablate, fits, here, new_study, outcome
from tests.warm import warm_up

NAMES = ("planted, share=0.5, width=8", "planted, share=0.5, width=12", "planted, share=0.95, width=16")
STUDY: dict[str, Any] = {
    "baseline": NAMES[0],
    "seeds": [0, 1],
    "margin": 20,
    "alpha": 0.2,
    "overrides": {
        "data.source.train": 60,
        "data.source.test": 80,
        "data.size": 24,
        "backbone.width": 4,
        "epochs": 1,
        "batch_size": 32,
        "logger": "none",
    },
    "rows": [
        {"neck": "planted", "neck.width": [8, 12], "neck.share": 0.5},
        {"neck": "planted", "neck.width": 16, "neck.share": 0.95},
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


def seeds_of(folder: Path) -> dict[str, list[int]]:
    """Row to its seeds, as the study lists them."""
    found: dict[str, list[int]] = {}
    for run in json.loads((folder / "experiments/tiny/records/study.json").read_text())["runs"]:
        found.setdefault(run["row"], []).append(run["seed"])
    return found


def table(folder: Path) -> list[str]:
    """The table without what was measured of speed and memory."""
    lines = (folder / "experiments/tiny/table.md").read_text().splitlines()
    headers = next(line for line in lines if line.startswith("|")).split("|")
    kept = [n for n, header in enumerate(headers) if header.strip() not in ("latency ms", "train images/s", "peak MiB")]
    cut = lambda line: "|".join(line.split("|")[n] for n in kept)  # noqa: E731
    return [cut(line) if line.startswith("|") else line for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_study(tmp_path_factory.mktemp("undisturbed"), **STUDY)
    code, said = here(folder, "--plan", "--until-decided")
    assert code == 0, said
    assert "no run has finished yet, so neither spread nor time is known" in said
    assert not (folder / "experiments/tiny/records").exists()
    code, said = here(folder, "--until-decided")
    assert code == 0, said
    assert f"{NAMES[2]} against {NAMES[0]}: better by" in said
    assert f"{NAMES[1]} against {NAMES[0]}: equal within the margin" in said
    return folder


@pytest.mark.slow
def test_seed_after_seed_until_decided_and_no_run_more(undisturbed: Path) -> None:
    seeds = seeds_of(undisturbed)
    # Each row has the first seeds; one that is decided earlier has fewer, and the baseline goes with the last.
    assert all(own == list(range(len(own))) for own in seeds.values())
    assert len(seeds[NAMES[0]]) == max(map(len, seeds.values()))
    assert len(seeds[NAMES[1]]) != len(seeds[NAMES[2]])
    # Counted: as many trainings as runs that count.
    assert len(fits(undisturbed)) == len(set(fits(undisturbed))) == sum(map(len, seeds.values()))
    text = "\n".join(table(undisturbed))
    assert "anytime" in text
    assert "missing" not in text
    rows = [line.split("|") for line in text.split("\n") if line.startswith("|")]
    assert [row[2].strip() for row in rows[2:]] == [str(len(seeds[name])) for name in NAMES]  # and not n of more
    for arguments in (["--until-decided"], ["--table", "--until-decided"], ["--verify"], ["--plan", "--until-decided"]):
        code, said = here(undisturbed, *arguments)
        assert code == 0, said
    assert len(fits(undisturbed)) == sum(map(len, seeds.values()))
    assert "no run more" in said
    assert json.loads((undisturbed / "experiments/tiny/records/rules.json").read_text())["settings"][0]["records"] == 0
    # A seed that is taken out by hand is found.
    path = undisturbed / "experiments/tiny/records/study.json"
    whole = path.read_text()
    content = json.loads(whole)
    content["runs"] = [run for run in content["runs"] if (run["row"], run["seed"]) != (NAMES[1], 1)]
    path.write_text(json.dumps(content))
    assert f"row '{NAMES[1]}' has [0, 2" in here(undisturbed, "--verify")[1]
    path.write_text(whole)


@pytest.mark.slow
def test_killed_at_several_moments_and_ended_by_two_at_once_it_has_the_same_seeds_and_table(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = new_study(tmp_path, **STUDY)
    for moment in ("step 4", "before record 10"):
        killed(folder, moment, "--until-decided")
    assert len(outcome(folder)) < len(outcome(undisturbed))
    before = len(fits(folder))
    both = [ablate(folder, "--until-decided") for _ in range(2)]
    ended = [process.finish() for process in both]
    assert [one.returncode for one in ended] == [0, 0], ended
    assert len(fits(folder)) - before <= len(outcome(undisturbed)) - 9  # what had ended was not trained again
    assert len(fits(folder)) <= len(fits(undisturbed)) + 2  # those that were killed began twice
    assert seeds_of(folder) == seeds_of(undisturbed)
    assert outcome(folder) == outcome(undisturbed)
    assert table(folder) == table(undisturbed)


@pytest.mark.slow
def test_what_ends_it_before_it_is_decided(tmp_path: Path) -> None:
    rows = [{"neck": "planted", "neck.width": [8, 12]}, {"neck": "planted", "neck.width": 16, "neck.raises": True}]
    names = ("planted, width=8", "planted, width=12", "planted, raises=True, width=16")
    folder = new_study(tmp_path, **STUDY | {"baseline": names[0], "rows": rows, "margin": 0.1})
    # No time: what runs ends, nothing else starts.
    code, said = here(folder, "--until-decided", "--budget", "0.001s")
    assert code == 1
    assert not fits(folder)
    assert "the budget is spent, and no run was started after that" in said
    assert f"{names[1]} against {names[0]}: undecided" in said
    # A run that fails: its row stays, the other goes on to the most.
    code, said = here(folder, "--until-decided", "--max-seeds", "3")
    assert code == 1
    assert f"{names[2]} against {names[0]}: undecided: {names[2]}, seed 0 failed (ValueError: this neck raises)" in said
    assert "3 seeds are the most that it may have" in said
    assert seeds_of(folder)[names[1]] == [0, 1, 2]
    assert "to decide, with a probability of 80 %" in here(folder, "--plan", "--until-decided", "--max-seeds", "3")[1]
    # More seeds of it later, but not fewer, and not without.
    for arguments, words in (
        (["--until-decided", "--max-seeds", "2"], "has results of 3 seeds; must be at least 3"),
        ([], "results of ablate.py tiny --until-decided --max-seeds 3"),
    ):
        code, said = here(folder, *arguments)
        assert code == 1
        assert words in said


def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = new_study(tmp_path, **STUDY)
    for arguments, words in (
        (["--until-decided", "--max-seeds", "1"], "--max-seeds 1: must be at least 2, the seeds of study.yaml"),
        (["--until-decided", "--max-seeds", "0"], "must be a whole number from 1 to 1000"),
        (["--until-decided", "--max-seeds", "1e3"], "must be a whole number from 1 to 1000"),
        (["--until-decided", "--budget", "0"], "must be a time above 0, such as 3h, 45m or 90s"),
        (["--until-decided", "--budget", "0h"], "must be a time above 0"),
        (["--until-decided", "--budget", "-3h"], "--budget"),
        (["--until-decided", "--budget", "3 hours"], "must be a time above 0"),
        (["--until-decided", "--budget", "nan"], "must be a time above 0"),
        (["--until-decided", "--seeds", "4"], "--seeds and --until-decided: one of them"),
        (["--until-decided", "--reproduce", "1"], "--until-decided goes with NAME"),
        (["--until-decided", "--verify"], "--until-decided goes with NAME"),
        (["--budget", "3h"], "--budget goes with --until-decided"),
        (["--max-seeds", "9"], "--max-seeds goes with --until-decided"),
        (["--until-decided", "--table", "--budget", "3h"], "--budget: nothing is trained here"),
        (["--until-decided", "--budget", "3h", "hydra/launcher=slurm"], "jobs wait in its queue, where no budget holds them"),
    ):
        code, said = here(folder, *arguments)
        assert code in (1, 2), arguments
        assert words in said + capsys.readouterr().err, arguments
    path = folder / "experiments/tiny/study.yaml"
    asked = path.read_text()
    for change, words in (
        ({"choose": {"optimizer.lr": [1e-3, 3e-3]}}, "the study has choose"),
        ({"rule": "fixed"}, "study.yaml says rule: fixed"),
    ):
        path.write_text(yaml.safe_dump(yaml.safe_load(asked) | change))
        assert words in here(folder, "--until-decided")[1]
    assert not fits(folder)


@pytest.mark.slow
def test_a_study_with_results_of_a_fixed_number_of_seeds_is_refused(tmp_path: Path) -> None:
    folder = new_study(tmp_path, **STUDY | {"rows": STUDY["rows"][:1], "seeds": [0]})
    code, said = here(folder)
    assert code == 0, said
    code, said = here(folder, "--until-decided")
    assert code == 1
    assert "tiny has 2 results already, whose number of seeds was to be fixed" in said
    assert len(fits(folder)) == 2
