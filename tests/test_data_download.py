import os
from urllib.error import URLError

import pytest

from necklace.data.download import fetch
from tests.warm import WarmProcess


def no_network() -> None:
    raise URLError("no network")


# Downloads an archive that two processes request at once, and leaves a file for each download.
FETCH = """
import sys, time
from pathlib import Path
from necklace.data.download import fetch

root, beside, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
archive = root / "unpacked"

def make():
    (beside / f"made_{number}").touch()
    time.sleep(0.5)  # the other process requests it meanwhile
    archive.write_text("whole")

(beside / f"ready_{number}").touch()
while len(list(beside.glob("ready_*"))) < 2:
    time.sleep(0.01)
fetch(make, archive.exists, root, ["archive.tar.gz"])
assert archive.read_text() == "whole"
"""


@pytest.mark.slow
def test_of_two_processes_one_downloads(tmp_path):
    processes = [
        WarmProcess("-c", FETCH, str(tmp_path / "root"), str(tmp_path), str(number), cwd=tmp_path, env=os.environ)
        for number in range(2)
    ]
    for process in processes:
        ended = process.finish(120)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert len(list(tmp_path.glob("made_*"))) == 1


def test_what_another_process_has_downloaded_is_not_downloaded_again(tmp_path):
    fetch(lambda: pytest.fail("downloaded"), lambda: True, tmp_path, ["archive.tar.gz"])
    with pytest.raises(FileNotFoundError, match=r"the download failed \(.*no network.*\); .*archive\.tar\.gz"):
        fetch(no_network, lambda: False, tmp_path, ["archive.tar.gz"])
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"the download failed .*archive\.tar\.gz"):
        fetch(lambda: None, lambda: False, tmp_path / "file", ["archive.tar.gz"])
