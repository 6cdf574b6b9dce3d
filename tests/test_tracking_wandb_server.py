"""Online runs against a server: how a run arrives, what a server that goes away costs, and what the upload brings later."""

import csv
import gzip
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import wandb
import yaml

from necklace.cli.dashboard import main
from necklace.results.analysis import analyse
from necklace.results.write import write_study
from necklace.run.history import History
from necklace.study.plan import make_plan
from necklace.study.status import StatusReader
from necklace.study.study_file import read_study
from necklace.tracking.wandb_logger import shown_config
from necklace.tracking.wandb_run import UPLOADING, run_files, unsynced
from necklace.tracking.wandb_study import sync
from tests import wandb_files
from tests.conftest import SMALL
from tests.synthetic import synthetic_study
from tests.test_tracking_wandb_logger import Train
from tests.test_tracking_wandb_study import STUDY
from tests.wandb_files import by_epoch, read

isolated = wandb_files.isolated_wandb  # a fixture for each test here
ONLINE = ("logger=wandb", "logger.wandb.mode=online")


class Server:
    """As much of W&B's server as a run asks for: it keeps what it is sent, and can go away and come back.

    Attributes:
        runs: What was told about each run when it was opened, by its id.
        rows: The history of each.
        summaries: The last summary of each.
        files: The names of the files that were uploaded.
        strange: Paths that nothing here answers.
        exits: The exit code of each that ended.
        views: The specs of the workspaces and reports that were saved, by their type.
        keeps_views: Whether it knows workspaces and reports.
        silent: Whether it accepts connections and answers none.
        refusing: Whether it answers what is sent of a history with 404.
        over: Set when it closes.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.files: set[str] = set()
        self.strange: list[str] = []
        self.exits: dict[str, int] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.keeps_views = False
        self.port = 0
        self.silent = False
        self.refusing = False
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self.over, self.silent = Event(), False
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), type("Bound", (Handler,), {"to": self}))
        self.port = self._http.server_port
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()  # waits for the requests that are being answered

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            told = {key: value for key, value in variables.items() if value is not None}
            run = self.runs.setdefault(variables["name"], {})
            run |= {key: value for key, value in told.items() if key not in run}
            project = {"id": "project", "name": run["project"], "entity": {"id": "entity", "name": "someone"}}
            bucket = {"id": run["name"], "name": run["name"], "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "upsertview" in operation.lower() and self.keeps_views:
            self.views[variables["type"]] = variables | {"spec": json.loads(variables["spec"])}
            told = {name: variables[name] for name in ("name", "displayName", "description", "type")}
            project = {"name": variables["projectName"], "entityName": variables["entityName"]}
            return {
                "upsertView": {"view": told | {"id": "view", "project": project, "spec": variables["spec"]}, "inserted": True}
            }
        if operation == "Viewer" and self.keeps_views:
            viewer = {"id": "1", "entity": "someone", "username": "someone", "email": "", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        if operation == "GetProjects" and self.keeps_views:
            node = {"id": "1", "name": "necks", "entityName": "someone", "createdAt": "", "isBenchmark": False, "user": None}
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": node, "cursor": ""}], "pageInfo": page}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        return {}

    def file_stream(self, run: str, sent: dict[str, Any]) -> None:
        for name, part in sent.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                self.rows.setdefault(run, [])[part["offset"] : part["offset"] + len(lines)] = lines
            elif name == "wandb-summary.json":
                self.summaries[run] = lines[-1]
        if sent.get("complete"):
            self.exits[run] = sent["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """One request to a `Server`."""

    to: Server
    timeout = 10

    def handle(self) -> None:
        if self.to.silent:
            self.to.over.wait()
        else:
            super().handle()

    def do_HEAD(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self.to.files.add(self.path.removeprefix("/upload/"))
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            operation = asked.get("operationName") or (named[1] if named else "")
            self._answer({"data": self.to.graphql(operation, asked.get("variables") or {})})
        elif self.path.endswith("/file_stream") and not self.to.refusing:
            self.to.file_stream(self.path.split("/")[-2], json.loads(body))
            self._answer({})
        else:
            self.to.strange.append(self.path)
            self.send_error(404)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        return gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def _own_process() -> Iterator[None]:
    """W&B reads its settings once a process, and lets one process of its own serve all runs: both begin anew here, and end."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(isolated: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield server
    wandb.teardown()
    server.close()


def history_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_rows(rows: list[dict[str, Any]], folder: Path) -> None:
    """Hold what W&B has of a run against the run's own history."""
    expected = history_of(folder)
    found = by_epoch(rows)
    assert list(found) == [int(row["epoch"]) for row in expected]
    for row in expected:
        for name in ("val/acc", "val/loss", "train/loss"):
            assert found[int(row["epoch"])][name] == pytest.approx(float(row[name]))


def test_an_online_run_arrives_whole(train_run: Train, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = train_run("epochs=2", *ONLINE)
    (run,) = server.runs.values()
    assert (run["name"], run["displayName"]) == (record.hash, record.name)
    assert run["project"] == "runs"
    assert run["groupName"].startswith("glyphs, cifar_resnet, none, backbone.width=4, epochs=2")
    assert run["jobType"].startswith("glyphs, cifar_resnet, none, backbone.width=4")
    assert {"neck=none", "seed=0"} <= set(run["tags"])
    config = {name: item["value"] for name, item in json.loads(run["config"]).items() if name != "_wandb"}
    assert config == json.loads(json.dumps(shown_config(record.config, record.choices)))
    assert len(history_of(folder)) == 2
    check_rows(server.rows[record.hash], folder)
    summary = server.summaries[record.hash]
    assert {name: summary[name] for name in record.metrics} == pytest.approx(record.metrics)
    assert (summary["best_epoch"], summary["cost/params"]) == (record.best_epoch + 1, record.total("params"))
    assert server.exits == {record.hash: 0}
    assert {"config.yaml", "wandb-summary.json"} <= server.files
    assert server.strange == []  # nor W&B's reports on itself, for which a process would wait at its end
    (file,) = run_files(folder)
    assert not (file.parent / UPLOADING).exists()
    assert unsynced(folder) is None
    assert f"W&B run: {server.url}/someone/runs/runs/{record.hash}\n" in capsys.readouterr().out


def test_what_a_server_refuses_is_left_for_the_upload(
    train_run: Train, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusing = True
    record, folder = train_run("epochs=1", *ONLINE)
    assert record.epochs == 1
    assert server.exits == {}
    (file,) = run_files(folder)
    assert (
        f"it did not take all, the rest: wandb sync --include-online {os.path.relpath(file.parent)}\n"
        in capsys.readouterr().out
    )
    wandb.teardown()  # as the process's end does: W&B's own process may still be writing the file
    assert unsynced(folder) == file


@pytest.fixture
def dashboard(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call `necklace dashboard` for a study with records."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "necks"
    write_study(study := synthetic_study(), analyse(study), folder)
    shared = {text.partition("=")[0]: yaml.safe_load(text.partition("=")[2]) for text in SMALL}
    asked = {"question": study.info.question, "baseline": "none", "seeds": [0], "overrides": shared}
    (folder / "study.yaml").write_text(yaml.safe_dump(asked | {"rows": [{"neck": ["none", "focal"]}]}))
    return lambda *options: main(["necks", *options])


@pytest.mark.parametrize("options", [[], ["--report"], ["--report", "--entity", "someone"], ["--entity", "someone"]])
def test_a_server_that_keeps_no_dashboards_is_told_in_a_sentence(
    dashboard: Callable[..., None], server: Server, options: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        dashboard(*options)
    said = str(stopped.value)
    assert said.startswith(f"error: {server.url} is no server that ")
    assert "--dry-run" in said
    assert "\n" not in said


def test_a_dashboard_and_a_report_are_saved_on_a_server_that_keeps_them(
    dashboard: Callable[..., None], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.keeps_views = True
    dashboard("--entity", "someone")
    assert server.views["project-view"]["projectName"] == "necks"
    assert "saved: http" in capsys.readouterr().out
    dashboard("--report", "--entity", "someone")
    assert "saved: http" in capsys.readouterr().out
    report = server.views["runs"]
    assert (report["displayName"], report["entityName"]) == ("necks", "someone")
    assert report["projectName"] == "runs"  # where its runs are
    (table,) = [block["content"] for block in report["spec"]["blocks"] if block["type"] == "markdown-block"]
    _, _, expected = (Path("experiments") / "necks" / "table.md").read_text().partition("\n\n")
    assert table == expected
    words = json.dumps(report["spec"], ensure_ascii=False)
    for text in ("Which neck joins what lies far apart?", "cifar_resnet (depth=8, width=16)", "figures/differences", "val/acc"):
        assert text in words


@pytest.mark.slow
@pytest.mark.usefixtures("hydra_ready")
@pytest.mark.parametrize("becomes", ["gone", "silent"])
def test_a_server_that_goes_away_costs_seconds_and_has_it_all_after_the_upload(
    train_run: Train,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    becomes: str,
) -> None:
    path = tmp_path / "experiments" / "tiny" / "study.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(STUDY))
    outputs = tmp_path / "outputs"
    plan = make_plan(read_study(path), [f"outputs={outputs}", "epochs=3"])
    last_step = 0.0
    end = History.on_train_epoch_end

    def go_away(self: History, trainer, pl_module) -> None:
        nonlocal last_step
        end(self, trainer, pl_module)
        last_step = time.monotonic()
        if trainer.current_epoch == 0:
            server.silent = becomes == "silent"
            if not server.silent:
                server.close()

    with monkeypatch.context() as context:
        context.setattr(History, "on_train_epoch_end", go_away)
        record, _ = train_run(*plan.runs[0].spec.overrides, *ONLINE, outputs=outputs)
    wandb.teardown()  # as the process's end does: it waits for W&B's own process
    assert time.monotonic() - last_step < 10
    folder = plan.root / record.name
    assert len(history_of(folder)) == record.epochs == 3
    assert len(by_epoch(server.rows.get(record.hash, []))) < 3
    (file,) = run_files(folder)
    assert f"the rest: wandb sync --include-online {os.path.relpath(file.parent)}\n" in capsys.readouterr().out
    assert unsynced(folder) == file
    check_rows(read(file)["rows"], folder)

    if becomes == "silent":
        server.close()
    server.open()  # at the same address
    lines, complete = sync(plan, StatusReader(plan).all())
    assert (lines[0], complete) == ("1 of 1 runs uploaded", True), lines
    assert unsynced(folder) is None
    check_rows(server.rows[record.hash], folder)
    summary = server.summaries[record.hash]
    assert {name: summary[name] for name in record.metrics} == pytest.approx(record.metrics)
    assert sync(plan, StatusReader(plan).all())[0][0] == "nothing to upload"
