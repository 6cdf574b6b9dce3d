import os
import sys
from pathlib import Path
from socket import create_server

import pytest
import wandb
from wandb.errors import AuthenticationError

from necklace.tracking import wandb_run
from necklace.tracking.wandb_run import wandb_mode
from tests import wandb_files
from tests.warm import WarmProcess

isolated = wandb_files.isolated_wandb  # a fixture for each test here


def test_a_server_that_is_silent_gone_or_broken_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "PROBE_S", 0.5)
    asked = []

    def probe(server: str) -> str | None:
        asked.append(server)
        return real(server)

    real = wandb_run._probe
    monkeypatch.setattr(wandb_run, "_probe", probe)
    with create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(wandb_run, "_server", lambda: silent_url)
        for _ in range(3):
            mode, why = wandb_mode("online")
            assert mode == "offline"
            assert silent_url in (why or "")
    monkeypatch.setattr(wandb_run, "_server", lambda: "http://127.0.0.1:9")
    mode, why = wandb_mode("online")
    assert mode == "offline"
    assert "refused" in (why or "")
    assert asked == [silent_url, "http://127.0.0.1:9"]


def test_the_mode_follows_the_option_then_the_environment_then_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "_probe", lambda server: None)
    monkeypatch.setattr(wandb_run, "has_wandb_key", lambda: True)
    assert wandb_mode(None) == ("online", None)
    assert wandb_mode("offline") == ("offline", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode(None) == ("offline", None)
    assert wandb_mode("online") == ("online", None)
    monkeypatch.setenv("WANDB_MODE", "dryrun")  # W&B's older names
    assert wandb_mode(None) == ("offline", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(None) == ("disabled", None)
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(ValueError, match="WANDB_MODE=shared: must be online, offline or disabled"):
        wandb_mode(None)
    monkeypatch.setenv("WANDB_MODE", "")
    assert wandb_mode(None) == ("online", None)
    assert "WANDB_MODE" not in os.environ
    monkeypatch.setattr(wandb_run, "has_wandb_key", lambda: False)
    assert wandb_mode(None) == ("offline", None)

    def refused() -> bool:
        raise AuthenticationError("API key must have 40+ characters, has 3.")

    monkeypatch.setattr(wandb_run, "has_wandb_key", refused)
    assert wandb_mode(None) == ("offline", "API key must have 40+ characters, has 3.")
    with pytest.raises(ValueError, match=r"logger\.mode=disabled: must be online, offline or null"):
        wandb_mode("disabled")


def test_the_key_is_looked_up_without_asking_the_server(tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        environment = {"WANDB_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "WANDB_API_KEY": "a" * 40}
        code = "from necklace.tracking.wandb_run import has_wandb_key; print(has_wandb_key())"
        done = WarmProcess("-c", code, cwd=tmp_path, env=os.environ | environment).finish(120)
        assert done.stdout.split() == ["True"], done.stderr
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_launch_is_asked_only_where_somebody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    step = "_detect_and_apply_job_inputs"
    asks = getattr(wandb.Run, step)  # a version of W&B without it has to be looked at
    monkeypatch.delitem(sys.modules, "wandb.sdk.launch", raising=False)
    with wandb_run._without_launch():
        assert getattr(wandb.Run, step) is not asks
    assert getattr(wandb.Run, step) is asks
    monkeypatch.setitem(sys.modules, "wandb.sdk.launch", sys)
    with wandb_run._without_launch():
        assert getattr(wandb.Run, step) is asks
