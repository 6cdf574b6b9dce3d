"""Studies of real runs that are refused: before they begin, or since their rows are one training."""

import json
from pathlib import Path

import yaml

from tests.test_cli_study import here, new_study

SMALL = {"data.source.train": 60, "data.source.test": 20, "data.size": 24, "backbone.width": 4, "epochs": 1, "batch_size": 32}


def test_a_run_that_cannot_begin_and_two_rows_of_one_training(tmp_path: Path) -> None:
    """Both limits are all of val, so two rows differ in nothing but what they are called."""
    rows = [
        {"neck": "none", "+trainer.limit_val_batches": [None, 1.0]},
        {"neck": "none", "schedule": "cosine", "schedule.warmup_epochs": 9},
    ]
    names = "none, trainer.limit_val_batches=None", "none, trainer.limit_val_batches=1.0"
    new_study(tmp_path, rows=rows, baseline=names[0], seeds=[0], overrides=SMALL | {"logger": "none"})
    study, outputs = tmp_path / "experiments" / "tiny", tmp_path / "outputs" / "tiny"
    equal = f"row '{names[0]}' and row '{names[1]}' ended with the same weights on all 1 seed"
    why = "schedule.warmup_epochs=9: must be shorter than the training of 1 epochs"
    code, said = here(tmp_path)
    assert code == 1
    assert f"none, schedule=cosine, schedule.warmup_epochs=9, seed 0: refused: {why}" in said
    assert equal in said
    assert not list(tmp_path.rglob("FAILED"))
    assert len([path for path in outputs.iterdir() if not path.name.startswith(".")]) == 2
    code, said = here(tmp_path, "--table")
    assert code == 1
    assert equal in said
    assert not (study / "table.md").exists()

    content = yaml.safe_load((study / "study.yaml").read_text())
    (study / "study.yaml").write_text(yaml.safe_dump(content | {"same": list(names)}))
    code, said = here(tmp_path)
    assert code == 1  # a run of the table is still not there
    assert why in (study / "table.md").read_text()
    assert [run["failure"] for run in json.loads((study / "records" / "study.json").read_text())["runs"]] == [None, None, why]
    assert here(tmp_path, "--verify")[0] == 0
    records = study / "records" / "study.json"
    records.write_text(json.dumps(json.loads(records.read_text()) | {"same": None}))
    code, said = here(tmp_path, "--verify")
    assert code == 1
    assert equal in said


def test_options_of_a_study_are_checked_before_it_trains(tmp_path: Path) -> None:
    changes = {"baseline": "none", "seeds": [0], "overrides": SMALL | {"logger": "none"}}
    for rows, overrides, words in (
        ([{"neck": "none"}, {"neck": "focal", "+focal_level": [1, 3]}], {}, "row 'focal, focal_level=1': focal_level: nothing"),
        ([{"neck": "none"}, {"neck": "focal", "focal_level": [1, 3]}], {}, "did you mean neck.focal_level?"),
        ([{"neck": "none"}, {"neck": "none", "data/sizes": "native", "data.size": 64}], {}, "data.size=64: nothing reads it"),
        ([{"neck": "none"}], {"data/sizes": "native", "data.size": 64}, "data.size: no row reads it"),
        ([{"neck": "none"}], {"epochs": 1.5}, "row 'none': epochs=1.5: must be a whole number from 1"),
        ([{"neck": "none"}], {"+trainer.fast_dev_run": True}, "trainer.fast_dev_run: leaves no record"),
    ):
        folder = new_study(tmp_path / str(len(list(tmp_path.iterdir()))), **changes | {"rows": rows})
        path = folder / "experiments" / "tiny" / "study.yaml"
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(content | {"overrides": content["overrides"] | overrides}))
        code, said = here(folder, "--plan")
        assert code == 1
        assert words in said
        assert [path.name for path in folder.glob("outputs/*")] in ([], ["cache"])  # drawn images, for any run
    rows = [{"neck": "none"}, {"neck": "none", "data/sizes": "native"}]
    assert here(new_study(tmp_path / "both", **changes | {"rows": rows}), "--plan", "data.size=28")[0] == 0  # one reads it
