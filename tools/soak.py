"""A study of many tiny runs in two slots: does its parent process grow, and does anything stay behind?

    python tools/soak.py --runs 200

Prints the parent's memory and open files while the runs end, the zombies seen, and what is left when it has ended. Exit code 1
where the parent has grown by more than a fifth since its tenth run, or something is left.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = """\
question: Does anything grow?
baseline: none
seeds: {seeds}
overrides:
  data.source.train: 40
  data.source.test: 10
  data.size: 24
  backbone.width: 4
  batch_size: 16
  epochs: 1
  logger: none
rows:
- neck: [none, conv]
"""
GROWTH = 1.2


def processes(session: int) -> dict[int, str]:
    """The processes of a session that still are there: pid to state, such as `S`, or `Z` of a zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it has just ended
            continue
        state, parent, _, its_session = text[text.rindex(")") + 2 :].split()[:4]
        # What has ended and whose parent has ended is for the system to collect, not for the command.
        if int(its_session) == session and not (state == "Z" and parent == "1"):
            found[int(path.parent.name)] = state
    return found


def memory_mib(pid: int) -> float:
    """The memory that a process holds, in MiB."""
    words = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert words is not None
    return int(words[1]) / 1024


def soak(runs: int, folder: Path) -> bool:
    """Run the study in a folder, watch it, and print what was seen; gives whether all was well."""
    (folder / "experiments" / "soak").mkdir(parents=True)
    (folder / "experiments" / "soak" / "study.yaml").write_text(STUDY.format(seeds=list(range(runs // 2))))
    command = [sys.executable, str(ROOT / "ablate.py"), "soak", "hydra.launcher.slots=2", "hydra.launcher.threads=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    shared = set(os.listdir("/dev/shm"))
    started = time.monotonic()
    with (folder / "printed").open("w") as printed:
        parent = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=printed, start_new_session=True)
    after_ten = at_end = None
    shown, zombies = -1, 0
    print(f"{'runs done':>9} {'seconds':>8} {'parent MiB':>10} {'files':>6} {'zombies':>8}")
    while parent.poll() is None:
        done = len(list(folder.glob("outputs/soak/*/record.json")))
        try:
            memory, files = memory_mib(parent.pid), len(os.listdir(f"/proc/{parent.pid}/fd"))
        except (OSError, AssertionError):  # it has just ended
            break
        now = sum(state == "Z" for state in processes(parent.pid).values())
        zombies = max(zombies, now)
        if done >= 10 and after_ten is None:
            after_ten = memory
        if after_ten is not None and (at_end is None or done < runs):
            at_end = memory  # the last one while runs train: then come statistics and figures
        if done // 20 > shown // 20 or (done == runs and shown < runs):
            shown = done
            print(f"{done:>9} {time.monotonic() - started:>8.0f} {memory:>10.1f} {files:>6} {now:>8}", flush=True)
        time.sleep(0.1)
    code = parent.wait()
    time.sleep(1.0)
    left = processes(parent.pid)
    files = [path for path in folder.rglob(".*") if path.is_file() and re.search(r"\.\d+$", path.name)]
    # torch keeps a folder of what it has compiled for later processes.
    files += [*folder.rglob("*.part"), *(path for path in (folder / "tmp").iterdir() if "torchinductor" not in path.name)]
    segments = set(os.listdir("/dev/shm")) - shared
    assert after_ten is not None, (folder / "printed").read_text()
    assert at_end is not None
    grown = at_end / after_ten
    records = len(list(folder.glob("outputs/soak/*/record.json")))
    print(f"exit code {code}; {records} of {runs} records in {time.monotonic() - started:.0f} s")
    print(f"parent: {after_ten:.1f} MiB after 10 runs, {at_end:.1f} MiB at the end of {runs}: {grown:.3f}x")
    print(f"most zombies at once: {zombies}; left: {len(left)} processes, {len(files)} files, {len(segments)} in /dev/shm")
    for path in files:
        print(f"  {path}")
    return code == 0 and records == runs and grown <= GROWTH and not left and not files and not segments


def main() -> None:
    """Parse the command line and carry it out."""
    parser = argparse.ArgumentParser(description="A study of many tiny runs: does anything grow, or stay behind?")
    parser.add_argument("--runs", type=int, default=200, help="an even number, from 20")
    arguments = parser.parse_args()
    if arguments.runs < 20 or arguments.runs % 2:
        parser.error(f"--runs {arguments.runs}: must be an even number, from 20")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        sys.exit(0 if soak(arguments.runs, Path(folder)) else 1)


if __name__ == "__main__":
    main()
