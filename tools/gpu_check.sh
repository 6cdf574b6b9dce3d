#!/usr/bin/env bash
# What only a GPU can tell, within eight minutes on a bare machine: the tests marked gpu, the necks' speed, DDP over nccl, and a
# study of five necks and five seeds. The figures are one JSON file.
#
#   tools/gpu_check.sh DATA OUT [WHEELS]
#
# DATA    CIFAR-10 as an image folder (train/CLASS/*.jpg, test/CLASS/*.jpg), or a tar file of one
# OUT     an empty folder for gpu_check.json and logs
# WHEELS  a folder of wheels to install into a folder of their own, where python3 lacks packages (it has torch >= 2.11,
#         torchvision, pytorch-lightning, torchmetrics and timm)
# SLOTS   in the environment: runs of the study at a time, 14 if not given, for 16 cores
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
DATA=$(realpath "$1") OUT=$(realpath -m "$2") WHEELS=${3:+$(realpath "$3")}
cd "$(dirname "$(realpath "$0")")/.."
SCRATCH=$(mktemp -d) STARTED=$(date +%s)
trap 'rm -rf "$SCRATCH"' EXIT
mkdir -p "$OUT"
export PYTHONPATH=$PWD/src OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 WANDB_MODE=offline
if [ -n "$WHEELS" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SCRATCH/site" "$WHEELS"/*.whl || exit 1
  PYTHONPATH=$PYTHONPATH:$SCRATCH/site
fi
[ -d "$DATA" ] || { mkdir "$SCRATCH/data" && tar xf "$DATA" -C "$SCRATCH/data" && DATA=$SCRATCH/data; } || exit 1

# step NAME SECONDS COMMAND...: run a command, note how it ended; a step that fails does not end the check, and all end in time.
step() {
  local name=$1 limit=$2 began=$(date +%s) code left=$((STARTED + ${BUDGET:-480} - 10 - $(date +%s)))
  shift 2
  [ "$left" -lt "$limit" ] && limit=$((left > 1 ? left : 1))
  timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
  code=$?
  echo "$name $code $(($(date +%s) - began))" >>"$SCRATCH/steps"
  echo "== $name: exit code $code, $(($(date +%s) - began)) s"
}

mkdir -p "$SCRATCH/experiments/gpu_fast"
cat >"$SCRATCH/experiments/gpu_fast/study.yaml" <<STUDY
question: Which neck, in a converged regime, on a GPU?
baseline: none
seeds: [0, 1, 2, 3, 4]
overrides: {+recipe: cifar10_fast, data.root: $DATA, trainer.accelerator: gpu, logger: none, callbacks.gates: 0}
rows:
  - {neck: [none, spp, sppf, focal, focal_block]}
same: [spp, sppf]
STUDY
study() { (cd "$SCRATCH" && python3 -m necklace.cli.main ablate gpu_fast "$@"); }
export -f study
export SCRATCH

step tests 100 python3 -m pytest -q -p no:cacheprovider -p no:benchmark -n 4 -m gpu tests/test_on_gpu.py
step study 250 bash -c "study hydra.launcher.slots=${SLOTS:-14}"
[ -f "$SCRATCH/experiments/gpu_fast/table.md" ] || step table 30 bash -c "study --table"  # of what is done, as the time did not suffice
step necks 50 python3 -m necklace.cli.main bench necks --device cuda --rounds 5 --out "$OUT/necks"
mkdir -p "$OUT/study"
cp "$SCRATCH"/experiments/gpu_fast/{study.yaml,table.md,runs.csv} "$OUT/study"/ 2>/dev/null

python3 - "$OUT" "$SCRATCH/steps" "$STARTED" <<'PYTHON'
import csv, json, statistics, sys, time
from pathlib import Path

import torch

out, steps, started = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
gpu = torch.cuda.is_available()
found = {
    "device": torch.cuda.get_device_name() if gpu else None,
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "seconds": round(time.time() - started),
    "steps": {name: {"exit": int(code), "seconds": int(s)} for name, code, s in map(str.split, steps.read_text().splitlines())},
}
lines = (out / "tests.log").read_text().splitlines()
found["tests"] = lines[-1] if lines else ""
if (out / "study" / "runs.csv").exists():
    runs = [row for row in csv.DictReader((out / "study" / "runs.csv").open()) if row["state"] == "done"]
    by_row = {row["row"]: [float(each["test/acc"]) for each in runs if each["row"] == row["row"]] for row in runs}
    found["study"] = {
        "runs": len(runs),
        "wall_seconds": found["steps"]["study"]["seconds"],
        "fit_seconds_a_run": statistics.median(float(row["fit_seconds"]) for row in runs) if runs else None,
        "test/acc": {row: [statistics.mean(values), statistics.stdev(values)] for row, values in by_row.items() if len(values) > 1},
    }
(out / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n")
print(json.dumps(found, indent=1))
sys.exit(not gpu or any(step["exit"] for step in found["steps"].values()))
PYTHON
