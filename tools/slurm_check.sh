#!/usr/bin/env bash
# What only SLURM can tell, on this machine alone: a cluster of one node, for this check, that listens on loopback, in a folder of
# its own. Jobs of a small study are cancelled, queued again, preempted and killed; each study ends as its local twin does.
#
#   tools/slurm_check.sh [CASE...]              without cases: all of them, some twelve minutes
#   tools/slurm_check.sh --install [CASE...]    installs Debian's slurm-wlm and munge first
#
# Skips with a reason, and exit code 0, where this is not root on a machine with SLURM's programs, or a cluster's node.
set -uo pipefail
skip() { echo "skipped: $1"; exit 0; }
if [ "${1:-}" = --install ]; then
  shift
  apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null || exit 1
fi
[ "$(id -u)" = 0 ] || skip "SLURM's daemons want root"
for program in slurmctld slurmd sbatch squeue scontrol munged; do
  command -v "$program" >/dev/null || skip "there is no $program; --install installs it"
done
{ pgrep -x slurmctld || pgrep -x slurmd; } >/dev/null && skip "a slurmctld or slurmd runs on this machine already"
ROOT=$(dirname "$(dirname "$(realpath "$0")")") SCRATCH=$(mktemp -d /tmp/slurm-check.XXXXXX) HOST=$(hostname)
# As many as two runs of two processes want, whatever this machine has: threads of a core are no cores to SLURM.
CPUS=$(($(nproc) > 4 ? $(nproc) : 4))
mkdir "$SCRATCH"/{state,spool,bin}
chmod 755 "$SCRATCH"
head -c 1024 /dev/urandom >"$SCRATCH/munge.key"
chmod 400 "$SCRATCH/munge.key"
cat >"$SCRATCH/slurm.conf" <<CONF
ClusterName=check
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$SCRATCH/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$SCRATCH/state
SlurmdSpoolDir=$SCRATCH/spool
SlurmctldPidFile=$SCRATCH/slurmctld.pid
SlurmdPidFile=$SCRATCH/slurmd.pid
SlurmctldLogFile=$SCRATCH/slurmctld.log
SlurmdLogFile=$SCRATCH/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
KillWait=5
MinJobAge=10
SlurmdParameters=config_overrides
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS Sockets=$CPUS CoresPerSocket=1 ThreadsPerCore=1 State=UNKNOWN
PartitionName=low Nodes=$HOST Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=$HOST MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
# No accounting: whoever asks for it is told so, and noted.
printf '#!/bin/sh\necho "$@" >>%s/sacct.calls\nexit 1\n' "$SCRATCH" >"$SCRATCH/bin/sacct"
chmod 755 "$SCRATCH/bin/sacct"
export SLURM_CONF=$SCRATCH/slurm.conf PATH=$SCRATCH/bin:$PATH
STARTED=()
end() {
  scancel --user=root 2>/dev/null
  for pid in $(cat "$SCRATCH"/slurmd.pid "$SCRATCH"/slurmctld.pid 2>/dev/null) "${STARTED[@]}"; do kill "$pid" 2>/dev/null; done
  sleep 2
  for pid in "${STARTED[@]}"; do kill -9 "$pid" 2>/dev/null; done
  [ -n "${KEEP:-}" ] || rm -rf "$SCRATCH"
}
trap end EXIT
munged --foreground --force --socket="$SCRATCH/munge.socket" --key-file="$SCRATCH/munge.key" --pid-file="$SCRATCH/munged.pid" \
  --log-file="$SCRATCH/munged.log" --seed-file="$SCRATCH/munge.seed" >/dev/null 2>&1 & STARTED+=($!)
sleep 1
slurmctld -D -f "$SLURM_CONF" >/dev/null 2>&1 & STARTED+=($!)
sleep 2
slurmd -D -f "$SLURM_CONF" >/dev/null 2>&1 & STARTED+=($!)
for _ in $(seq 30); do sinfo --noheader --format=%t 2>/dev/null | grep -q idle && break; sleep 1; done
sinfo --noheader --format=%t | grep -q idle || { echo "error: the node does not come up"; tail -5 "$SCRATCH"/*.log; exit 1; }
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
PYTHONPATH=$ROOT/src SLURM_CHECK=$SCRATCH "$PYTHON" "$ROOT/tools/slurm_cases.py" "$@"
