from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from necklace.identity import hash_identity
from necklace.inference.trained_run import open_run
from necklace.model import weights_hash
from necklace.record import read_record, write_record
from tests import test_diagnostics_pictures
from tests.test_diagnostics_pictures import inspect

trained, finished = test_diagnostics_pictures.trained, test_diagnostics_pictures.finished  # fixtures


def test_initial_and_trained_weights_are_those_of_the_record(trained: Path) -> None:
    opened = open_run(trained)
    assert weights_hash(opened.models["before"]) == opened.record.initial_hash
    assert weights_hash(opened.models["after"]) == opened.record.weights_hash
    assert not any(model.training for model in opened.models.values())


@pytest.mark.parametrize("missing", ["record.json", "config.yaml", "checkpoints/best.ckpt"])
def test_what_is_no_finished_run_is_named(finished: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (finished / missing).unlink()
    (finished / "FAILED").write_text("Traceback")
    with pytest.raises(SystemExit, match=f"not the folder of a finished run, it has no {missing}; it has failed"):
        inspect(finished, monkeypatch)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", b"a: [1,\n", "cannot be read: malformed YAML"),
        ("config.yaml", b"a: 1\n", "is not the config of the run"),
        ("config.yaml", b"", "is not the config of the run"),
        ("config.yaml", b"- 1\n", "is not the config of the run"),
        ("checkpoints/best.ckpt", b"x", "cannot be read, "),
        ("checkpoints/best.ckpt", None, "cannot be read, "),  # cut off
    ],
)
def test_a_damaged_file_is_named(
    finished: Path, name: str, content: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished / name
    path.write_bytes(path.read_bytes()[:-3000] if content is None else content)
    with pytest.raises(SystemExit, match=f"error: .*{name}: {message}"):
        inspect(finished, monkeypatch)


def test_other_data_and_other_weights_are_refused(finished: Path) -> None:
    path = finished / "record.json"
    record = read_record(path)
    write_record(replace(record, weights_hash="0" * 64), path)
    with pytest.raises(ValueError, match=r"best\.ckpt does not hold the weights"):
        open_run(finished)
    digest = record.data["digest"] | {"val": "0" * 64}
    changed = replace(record, data=record.data | {"digest": digest})
    write_record(changed, path)
    with pytest.raises(ValueError, match=r"record\.json: its config, identity and hash do not belong together"):
        open_run(finished)
    identity = record.identity | {"data": record.identity["data"] | {"digest": digest}}
    write_record(replace(changed, identity=identity, hash=hash_identity(identity)), path)
    with pytest.raises(ValueError, match=r"the data has changed since the run \(val\)"):
        open_run(finished)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("seed", "'x'", "seed: 'x': must be of type int"), ("backbone", "4", "backbone: 4: must be of type dict")],
)
def test_a_config_with_a_wrong_type_is_named(finished: Path, name: str, value: str, message: str) -> None:
    config: Any = OmegaConf.load(finished / "config.yaml")
    config[name] = yaml.safe_load(value)
    OmegaConf.save(config, finished / "config.yaml")
    with pytest.raises(ValueError, match=rf"config\.yaml: {message}, as in record\.json"):
        open_run(finished)


@pytest.mark.parametrize("content", [{"weights": 1}, [1], {"state_dict": 3}])
def test_a_file_of_torch_that_is_no_checkpoint_is_named(finished: Path, content: object) -> None:
    torch.save(content, finished / "checkpoints" / "best.ckpt")
    with pytest.raises(ValueError, match=r"^[^\n]*best\.ckpt: not a checkpoint of a run: [^\n]*$"):
        open_run(finished)
