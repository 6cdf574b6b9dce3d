import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from necklace.cli import main as command

VERBS = ("train", "ablate", "inspect", "contexts", "predict", "export", "dashboard", "bench")
ROOT = Path(__file__).parents[1]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["necklace", *arguments])
    command.main()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    run_main(monkeypatch, flag)
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in VERBS)


@pytest.mark.parametrize(("arguments", "named"), [([], "no verb"), (["tabel", "x"], "tabel"), (["--plan"], "--plan")])
def test_no_verb_or_an_unknown_one_is_answered_with_the_verbs(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run_main(monkeypatch, *arguments)
    assert f"error: {named}: must be one of {', '.join(VERBS)}" in str(end.value.code)


@pytest.mark.parametrize(
    ("verb", "module", "function"),
    [
        ("train", "train", "command"),
        ("ablate", "ablate", "main"),
        ("inspect", "inspection", "main"),
        ("contexts", "contexts", "main"),
        ("predict", "prediction", "main"),
        ("export", "export", "main"),
        ("dashboard", "dashboard", "main"),
        ("bench", "bench", "main"),
    ],
)
def test_a_verb_gets_the_arguments_behind_it(monkeypatch: pytest.MonkeyPatch, verb: str, module: str, function: str) -> None:
    given = []
    monkeypatch.setattr(importlib.import_module(f"necklace.cli.{module}"), function, given.append)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    run_main(monkeypatch, verb, "one", "key=value", "--flag")
    assert given == [["one", "key=value", "--flag"]]


def test_ctrl_c_is_a_keyboard_interrupt_again_once_ablate_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(SystemExit):
            run_main(monkeypatch, "ablate")  # without a name
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under a shell's `&`
        with pytest.raises(SystemExit):
            run_main(monkeypatch, "ablate")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_explaining_a_verb_imports_no_torch_and_neither_does_a_wrong_command_line() -> None:
    code = """
import sys
from necklace.cli.main import main

for arguments in (["--help"], ["ablate", "--help"], ["inspect", "--help"], ["predict", "--help"], ["export", "-h"],
                  ["predict", "RUN"], ["export", "RUN", "--format", "onx"], ["bench", "--help"], ["bench", "loader", "-h"],
                  ["ablate", "tiny", "tabel"], ["tabel"]):
    sys.argv = ["necklace", *arguments]
    try:
        main()
    except SystemExit:
        pass
print([name for name in ("torch", "pytorch_lightning", "wandb", "matplotlib") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    for words in ("usage: necklace VERB", "usage: necklace ablate", "usage: necklace inspect", "usage: necklace bench loader"):
        assert words in done.stdout


def test_train_is_the_script_that_hydra_and_lightning_see(monkeypatch: pytest.MonkeyPatch) -> None:
    from necklace.cli import train

    seen = []
    monkeypatch.setattr(train, "main", lambda: seen.append((list(sys.argv), sys.modules["__main__"].__spec__)))
    monkeypatch.setattr(sys, "argv", ["necklace", "train", "neck=spp"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", "of python -m")
    train.command(["neck=spp"])
    script = train.__file__
    assert seen == [([script, "neck=spp"], None)]
    # In a checkout, both scripts compose the same configs.
    assert (train.CONFIGS / "train.yaml").samefile(ROOT / "configs" / "train.yaml")
