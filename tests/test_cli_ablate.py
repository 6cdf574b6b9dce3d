import io
import shlex
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import yaml

from necklace.cli import ablate
from necklace.cli.ablate import parse


def refusal(*arguments: str) -> str:
    """The message with which the command line is refused."""
    output = io.StringIO()
    with redirect_stderr(output), pytest.raises(SystemExit) as end:
        parse(list(arguments))
    assert end.value.code == 2
    return output.getvalue()


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        ("tiny", "run"),
        ("tiny run", "run"),
        ("tiny plan", "plan"),
        ("tiny table", "table"),
        ("tiny verify", "verify"),
        ("tiny reproduce 3", "reproduce"),
        ("tiny sync", "sync"),
        ("tiny --plan", "plan"),
        ("--table tiny", "table"),
        ("tiny --verify", "verify"),
        ("tiny --reproduce 3", "reproduce"),
        ("tiny --wandb-sync", "sync"),
        ("tiny verify --verify", "verify"),
        ("tiny epochs=1 --plan", "plan"),
    ],
)
def test_a_verb_and_its_flag_say_the_same(line: str, verb: str) -> None:
    parsed = parse(line.split())
    assert (parsed.name, parsed.verb) == ("tiny", verb)
    assert parsed.reproduce == (3 if verb == "reproduce" else None)


@pytest.mark.parametrize(
    ("line", "overrides"),
    [
        ("tiny epochs=1 +a.b=2", ["epochs=1", "+a.b=2"]),
        ("tiny table epochs=1", ["epochs=1"]),
        ("tiny ~callbacks.gates", ["~callbacks.gates"]),
        ("tiny plan --seeds 2 epochs=1 ~x", ["epochs=1", "~x"]),
        ("tiny --retry-failed epochs=1 --rerun-stale data.root=a", ["epochs=1", "data.root=a"]),
        ("tiny reproduce data.root=a", ["data.root=a"]),
        ("tiny reproduce 2 data.root=a", ["data.root=a"]),
        ("tiny --reproduce 2 data.root=a", ["data.root=a"]),
    ],
)
def test_what_follows_the_verb_are_overrides(line: str, overrides: list[str]) -> None:
    assert parse(line.split()).overrides == overrides


def test_all_flags_are_valid_as_they_were(tmp_path: Path) -> None:
    flags = f"--table --retry-failed --rerun-stale --seeds 5 --allow versions --allow device --config-dir {tmp_path}"
    parsed = parse(["tiny", *shlex.split(flags)])
    assert (parsed.retry_failed, parsed.rerun_stale, parsed.seeds) == (True, True, 5)
    assert (parsed.allow, parsed.config_dir) == (["versions", "device"], tmp_path)
    for metric in ("test/balanced_acc", "test/class_acc/a class", "test/ap/cat"):
        assert parse(["--from", "outputs/runs", "--metric", metric]).metric == metric
        assert parse(["tiny", "--metric", metric]).verb == parse(["tiny", "--table", "--metric", metric]).verb == "metric"
    parsed = parse(["--from", "outputs/runs", "--metric", "test/map", "--figures", "out"])
    assert (parsed.name, parsed.root, parsed.metric, parsed.figures) == (None, Path("outputs/runs"), "test/map", Path("out"))
    assert parse(["tiny", "reproduce"]).reproduce == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "one of NAME and --from DIR, please"),
        ("tiny --from outputs", "one of NAME and --from DIR, please"),
        ("tiny tabel", "tabel: must be key=value or one of run, plan, table, verify, reproduce, sync"),
        ("tiny epochs=1 table", "table: must be key=value; one verb may follow the study's name"),
        ("tiny plan table", "table: must be key=value; one verb may follow the study's name"),
        ("tiny table --plan", "table and --plan: one of them, please"),
        ("tiny run --plan", "run and --plan: one of them, please"),
        ("tiny table --wandb-sync", "table and --wandb-sync: one of them, please"),
        ("tiny --plan --table", "not allowed with argument"),
        ("tiny reproduce some", "reproduce some: must be a number of runs"),
        ("tiny reproduce 2 3", "3: must be key=value"),
        ("tiny --reproduce some", "invalid int value: 'some'"),
        ("tiny --seeds two", "invalid int value: 'two'"),
        ("tiny --figures out", "--figures goes with --from DIR"),
        ("tiny --plan --metric test/acc", "--metric goes with NAME or --from DIR alone"),
        ("tiny epochs=1 --metric test/acc", "--metric goes with NAME or --from DIR alone"),
        ("--from outputs --metric test/f1", "invalid choice: 'test/f1'"),
        ("--from outputs --metric test/class_acc/", "invalid choice: 'test/class_acc/' (one of test/acc, test/balanced_acc"),
        ("--from outputs --metric test/loss", "invalid choice: 'test/loss'"),
        ("tiny --config-dir nowhere", "--config-dir nowhere: there is no such folder"),
        ("epochs=1", "the study's name comes before overrides such as epochs=1"),
        ("epochs=1 tiny", "tiny: must be key=value or one of"),
        ("tiny --tabel", "unrecognized arguments: --tabel"),
    ],
)
def test_a_wrong_command_line_is_answered_in_a_line(line: str, words: str) -> None:
    message = refusal(*line.split())
    assert words in message
    assert message.splitlines()[-1].startswith("necklace ablate: error: ")


def test_a_shell_of_ones_own_names_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ablate.py", "tiny", "tabel"])
    with pytest.raises(SystemExit):
        parse(None)
    assert "ablate.py: error: tabel: must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "study", "words"),
    [
        ("other --plan", {}, "experiments; there are: tiny"),
        ("tiny --verify", {}, "the study has no records yet; run it first"),
        ("tiny --reproduce 1", {}, "the study has no records yet; run it first"),
        ("tiny plan", {"rwos": []}, "missing ['rows'], unknown ['rwos']"),
        ("tiny plan", {"rows": [{"neck": ["none", "nnoe"]}]}, "tiny: row 'nnoe': "),
        ("tiny plan", {"rows": [{"neck": "spp"}]}, "tiny: none: there is no such row; rows: spp"),
        ("tiny plan seed=3", {"rows": [{"neck": "none"}]}, "seed=3: the study sets this; see --seeds"),
        ("tiny plan +study=x", {"rows": [{"neck": "none"}]}, "+study=x: the study sets this"),
        ("tiny plan --seeds 0", {"rows": [{"neck": "none"}]}, "--seeds 0: must be at least 1"),
        ("--from nowhere", {}, "nowhere: holds no runs"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, study: dict, words: str
) -> None:
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({"question": "Is it?", "baseline": "none", "seeds": [0]} | study))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        ablate.main(line.split())
    message = str(end.value.code)
    assert message.startswith("error: ")
    assert words in message
    # Images that were drawn or decoded before the mistake showed may stay in the cache.
    assert {path.name for path in tmp_path.glob("outputs/*")} <= {"cache"}
