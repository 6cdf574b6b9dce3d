import base64
import fcntl
import json
import os
import re
import select
import shutil
import signal
import statistics
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from necklace.results.analysis import analyse
from necklace.results.report import report_html
from necklace.results.results import Results
from necklace.results.table import TableText
from tests.synthetic import (
    ROWS,
    SEEDS,
    example,
    example_results,
    example_row,
    illustrated,
    synthetic_run,
    synthetic_runs,
    synthetic_study,
    with_classes,
)

# Names that a study's author may well choose, and some that a page must survive.
ODD = (
    "<script>alert(1)</script>",
    "\"quotes\" & 'more' <b>bold</b>",
    "emoji 🦄 漢字 $x_1$",
    "W" * 300,
    "a name of words " * 19,
    "]]>--><!--",
)


def table_of(found: Results) -> TableText:
    headers = ("row", "n", "test/acc %", "difference", "95 % t", "p (Holm)", "95 % images", "params", "MACs (M)", "latency ms")
    rows = tuple(
        (row.name, "3", "70.12 ± 0.45", "+1.23*", "-0.37 to +2.83", "0.031", "+0.10 to +2.30", "864,512", "8.65", "1.50")
        for row in found.rows
    )
    return TableText(headers, rows, found.notes, "Mean and standard deviation over seeds; difference paired by seed.")


def page_of(found: Results, path: Path) -> str:
    page = report_html(found, table_of(found))
    path.write_text(page, encoding="utf-8")
    return page


def odd() -> Results:
    """The example with odd text in every place that holds any."""
    base = example()
    rows = tuple(replace(row, name=name) for row, name in zip((*base.rows[1:4], *base.rows[6:]), ODD, strict=True))
    lost = replace(rows[4].runs[1], failure="ValueError: <img src=x onerror=alert(2)> " + "x" * 400, row=ODD[0])
    rows = (base.rows[0], *rows[:4], replace(rows[4], runs=(rows[4].runs[0], lost, rows[4].runs[2])), *rows[5:])
    return replace(
        base,
        study=replace(base.study, name=ODD[0] + "n" * 200, question="Is 1 < 2 & 3 > 2? " + "q" * 300),
        rows=rows,
        notes=("<i>note</i> " + "z" * 300,),
        hardware="<u>machine</u> " + "h" * 300,
        commands=("python ablate.py 'x<y' " + "c" * 300,),
    )


class Elements(HTMLParser):
    """Start tags with their attributes, ids and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def test_the_report_holds_all_that_was_found(tmp_path: Path) -> None:
    found = example()
    page = page_of(found, tmp_path / "report.html")
    elements = Elements(page)
    assert elements.open == []
    for text in (found.study.question, *found.notes, *found.commands, found.hardware, "70.12 ± 0.45", found.study.metric):
        assert text in elements.text
    assert "23 of 27 (9 rows, seeds 0, 1, 2)" in elements.text
    assert f"sd {100 * (found.noise or 0):.2f} points" in elements.text
    assert "sppf to spp, which compute the same" in elements.text
    assert "up to 0.00 points on a seed (n = 3)" in elements.text
    assert found.same
    apart = replace(found, same=replace(found.same, gaps={0: 0.05, 1: -0.071}))  # whose mean says nothing
    assert "up to 7.10 points on a seed (n = 2)" in page_of(apart, tmp_path / "apart.html")
    assert [tag for tag, _ in elements.tags].count("svg") == 6
    lost = page[page.index('<h2 id="missing">') :]
    assert lost.count("RuntimeError: focal_window 9 is larger than the map of 7 x 7") == 1
    assert lost.count("has not finished yet") == 3
    assert lost.index(found.rows[7].name) < lost.index("RuntimeError") < lost.index("has not finished yet")


def test_the_contents_list_every_part_of_the_page(tmp_path: Path) -> None:
    for make in (illustrated, example):
        elements = Elements(page_of(make(), tmp_path / "report.html"))
        links = [(attributes["href"] or "")[1:] for tag, attributes in elements.tags if tag == "a"]
        parts = [attributes.get("id") for tag, attributes in elements.tags if tag == "h2" and attributes["id"] != "figures"]
        figures = [attributes["id"] for tag, attributes in elements.tags if tag == "figure" and "id" in attributes]
        assert len(figures) == (8 if make is illustrated else 6)
        assert links == [parts[0], *figures, *parts[1:]]


def test_the_page_tells_how_the_runs_were_trained(tmp_path: Path) -> None:
    runs = [
        synthetic_run(row, seed, git={"sha": "0123456789" * 4, "dirty": seed == 1, "date": "2026-11-05"})
        for row in ROWS
        for seed in SEEDS
    ]
    slower = {"optimizer": {"lr": 0.0001, "weight_decay": 0.05}}
    runs[0] = replace(runs[0], record=replace(runs[0].record, epochs=9, config={**runs[0].record.config, **slower}))  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    found = analyse(synthetic_study(runs, overrides=("data=context", "epochs=6")), [])
    page = Elements(page_of(found, tmp_path / "report.html"))
    text = page.text
    for words in (
        "dataglyphs, 2 classes",
        "images100 train, 200 test",
        "cifar_resnet (depth=8, width=16), neck on 8 × 6 × 6, head gap",
        "batch64 images",
        "9 (10 steps) (none); 6 (10 steps) (none, spp, sppf, focal, focal_level=1, focal, focal_level=2)",
        "adamw, lr 0.0001, weight_decay 0.05 (none)",
        "data=context epochs=6",
        "commit 0123456789 of 2026-11-05; commit 0123456789 of 2026-11-05, with uncommitted changes",
        "a processor (cpu, 1 CPU threads)",
    ):
        assert words in text, text


def test_a_study_of_which_nothing_has_finished_has_a_report(tmp_path: Path) -> None:
    page = page_of(example_results(example_row("none", [None, None]), baseline=None), tmp_path / "report.html")
    assert "0 of 2" in page
    assert "Baseline" not in page
    assert "<svg" not in page
    done = page_of(example_results(example_row("none", [0.5, 0.6])), tmp_path / "report.html")
    assert "None: every run finished." in done
    assert done.count("<svg") == 2


def test_accuracy_by_class_stands_in_the_page_where_records_have_it(tmp_path: Path) -> None:
    assert "By class" not in page_of(analyse(synthetic_study()), tmp_path / "report.html")
    runs = [with_classes(run, [190, 10, 0], [180 + run.seed, 5, 0], [185, 15, 0]) for run in synthetic_runs()]
    runs[0] = replace(runs[0], record=synthetic_run("none", 0).record)  # of an earlier version
    page = page_of(analyse(synthetic_study(runs)), tmp_path / "report.html")
    part = page[page.index('<h2 id="classes">') : page.index('<h2 id="figures">')]
    lines = [re.sub(r"</?(?:td|th|div|tr)[^>]*>", "|", line) for line in part.splitlines() if line.startswith("<tr>")]
    texts = [[text for text in line.split("|") if text] for line in lines]
    sd = f"{100 * statistics.stdev([180 / 190, 181 / 190, 182 / 190]):.2f}"
    two = f"{100 * statistics.stdev([181 / 190, 182 / 190]):.2f}"
    assert texts == [
        # Test images of a class have no number where the records do not agree on it.
        ["a", f"95.53 ± {two}", *[f"95.26 ± {sd}"] * 4],
        ["b", *["50.00 ± 0.00"] * 5],
        ["balanced accuracy", "72.76 ± 0.19", *["72.63 ± 0.26"] * 4],
    ]


def test_pictures_stand_in_the_page(tmp_path: Path) -> None:
    found = illustrated()
    page = page_of(found, tmp_path / "report.html")
    elements = Elements(page)
    assert elements.open == []
    images = [attributes for tag, attributes in elements.tags if tag == "img"]
    shown = [(run.row, content) for row in found.rows for run in row.runs for content in run.thumbnails.values()]
    assert len(images) == len(shown) == 6
    for image, (name, content) in zip(images, shown, strict=True):
        assert (image["alt"] or "").startswith(f"{name}: ")
        assert base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) == content
    assert [tag for tag, _ in elements.tags].count("svg") == 8


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    first = page_of(example(), tmp_path / "a.html")
    assert page_of(example(), tmp_path / "b.html") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
    other = replace(example(), noise=0.0123)
    assert page_of(other, tmp_path / "b.html") != first


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    found = odd()
    page = page_of(found, tmp_path / "report.html")
    elements = Elements(page)
    assert elements.open == []
    tags = {tag for tag, _ in elements.tags}
    assert not tags & {"script", "b", "i", "u", "img", "link", "iframe", "object", "image"}
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    for text in (found.study.name, found.study.question, found.notes[0], found.hardware, found.commands[0], *ODD):
        assert text in elements.text
    assert "ValueError: <img src=x onerror=alert(2)> " in elements.text


def test_the_page_names_no_other_place_and_no_id_twice(tmp_path: Path) -> None:
    elements = Elements(page_of(odd(), tmp_path / "report.html"))
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    values = [(name, value or "") for _, attributes in elements.tags for name, value in attributes.items()]
    assert {value.partition("://")[0] for name, value in values if "://" in value and not name.startswith("xmlns")} == set()
    inside = [value[1:] for name, value in values if name in ("href", "xlink:href", "src")]
    inside += [match for _, value in values for match in re.findall(r"url\(#([^)]+)\)", value)]
    assert inside
    assert set(inside) <= set(ids)


class Browser:
    """Headless Chromium, spoken to over its debugging pipe: a window of any width, and each request and message is seen."""

    def __init__(self, executable: str, profile: Path) -> None:
        ends = [*os.pipe(), *os.pipe()]
        # Chromium reads commands from 3 and writes answers to 4: those numbers must be free to be given away.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
        for end in ends:
            os.close(end)
        theirs_in, self._commands, answers, theirs_out = high
        silent = os.open(os.devnull, os.O_RDWR)
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        switches += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        copies = [
            (os.POSIX_SPAWN_DUP2, here, there) for here, there in ((silent, 1), (silent, 2), (theirs_in, 3), (theirs_out, 4))
        ]
        own = {**os.environ, "HOME": str(profile), "TMPDIR": str(profile)}
        self._process = os.posix_spawn(executable, [executable, *switches], own, file_actions=copies, setpgroup=0)
        for end in (theirs_in, theirs_out, silent):
            os.close(end)
        self._answers = answers
        self._session: str | None = None
        self._count = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        """Load a page in a window of that width in CSS pixels."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def faults(self) -> list[str]:
        """Faults since the page was opened: messages, exceptions, and requests for anything but files."""
        self.call("Runtime.evaluate", expression="0")  # what was on its way has come by now
        found = []
        for event in self.events:
            method, said = event.get("method"), event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(f"{method}: {said}")
            elif method == "Network.requestWillBeSent" and not said["request"]["url"].startswith(("file:", "data:")):
                found.append(f"request: {said['request']['url']}")
        return found

    def close(self) -> None:
        """End Chromium with all its processes."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        while os.read(self._answers, 1 << 20):
            pass  # the pipe ends with the last process that holds it, and with it the last that writes to the profile
        os.close(self._commands)
        os.close(self._answers)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], 60)[0], "Chromium does not answer"
            more = os.read(self._answers, 1 << 20)
            assert more, "Chromium has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs a program called chromium, such as Debian's package of that name")
    with TemporaryDirectory() as profile:  # of a short name, as a socket's path must be short
        chromium = Browser(executable, Path(profile))
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("make", [example, odd, illustrated])
def test_a_browser_shows_it_without_sideways_scrolling(browser: Browser, tmp_path: Path, make: Any, width: int) -> None:
    path = tmp_path / "report.html"
    page_of(make(), path)
    browser.open(path, width)
    assert browser.faults() == []
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('svg').length") == (8 if make is illustrated else 6)
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # All that sticks out of the window lies in a container of its own that scrolls.
    outside = f"e.getBoundingClientRect().right > {width} && !e.closest('.scroll')"
    assert browser.value(f"[...document.querySelectorAll('main *')].filter(e => {outside}).map(e => e.outerHTML)") == []
    # The table does so, and its rows' names stay in sight.
    name, table = "document.querySelector('tbody th').getBoundingClientRect()", "document.querySelector('.scroll')"
    assert browser.value(f"{table}.scrollLeft = 9999; {table}.scrollLeft") > (400 if width == 400 else 0)
    assert browser.value(f"{name}.left - {table}.getBoundingClientRect().left") in (0, 1)
    assert browser.value(f"{name}.width") < 0.45 * width
    # The figures' text, in pixels of the screen, with the font size of 9 units that all of it has.
    scales = browser.value(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    )
    assert min(scales) * 9 > 9
    assert browser.value("document.title") == make().study.name


def test_a_browser_follows_the_colours_of_the_system(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page_of(example(), path)
    brightness = "(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b))"
    seen = []
    for dark in (False, True):
        browser.open(path, 1280, dark)
        seen.append([browser.value(f"{brightness}(document.querySelector('{what}'))") for what in ("body", ".card", "svg")])
    (page, card, figure), (dark_page, dark_card, dark_figure) = seen
    assert min(page, card, figure) > 700
    assert max(dark_page, dark_card) < 150
    assert dark_figure == 765  # figures stay on white


def test_the_browser_sees_faults(browser: Browser, tmp_path: Path) -> None:
    """Without this, a browser that saw nothing would pass the tests above."""
    path = tmp_path / "bad.html"
    head = '<!doctype html><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "<div style='width: 900px'>wide</div><img src='http://127.0.0.1:9/x.png'>"
    path.write_text(f"{head}{body}<script>console.error('oh'); missing()</script>")
    browser.open(path, 400)
    faults = "\n".join(browser.faults())
    for part in ("oh", "missing is not defined", "request: http://127.0.0.1:9/x.png"):
        assert part in faults
    assert browser.value("document.documentElement.scrollWidth") >= 900
