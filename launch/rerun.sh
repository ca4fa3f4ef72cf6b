#!/usr/bin/env bash
# Runs a command of the package, and runs it again where it lost a peer. A run over several processes ends in all of
# them when one is gone: JAX aborts the others, which a shell reports as 134 (128 + 6, SIGABRT). The same command
# resumes, so it is all there is to do. Start every process of the run under this script.
#
#   bash launch/rerun.sh python -m coconet_jax.train --config=configs/paper.py --workdir=gs://bucket/run \
#       --config.distributed.mode=auto
#
#   RETRIES  how often at most it is run again (default: 10)
#   PAUSE    seconds before the first of these, doubled each time up to 300 (default: 10)
#   DRY_RUN  1: print the command
#
# Any other exit code is passed on at once. SIGTERM, SIGINT and SIGHUP are passed on to the command and end the
# script with it, so that a training run saves first.
set -euo pipefail
. "$(dirname "$0")/common.sh"
retries=${RETRIES:-10}
pause=${PAUSE:-10}
[ $# -gt 0 ] || fail "rerun.sh needs a command; see bash $0 --help"
if flag DRY_RUN; then
  run "$@"
  exit
fi

# With job control a command in the background has a group of its own. Otherwise it would ignore SIGINT, and a ctrl-C
# at a terminal would reach it twice, once from here: the second makes a training run end without saving.
set -m
child=
signals=0
signal=
signal_code=
pass_on() {
  signals=$((signals + 1))
  signal=$1
  signal_code=$((128 + $2))
  [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null || true
}
trap 'pass_on TERM 15' TERM
trap 'pass_on INT 2' INT
trap 'pass_on HUP 1' HUP

# Runs a command to its end, its exit code in $code. A signal ends `wait` too early, hence the loop.
attend() {
  local seen=-1
  "$@" &
  child=$!
  # One may have come before there was a command to pass it on to.
  [ -z "$signal" ] || kill -s "$signal" "$child" 2>/dev/null || true
  while [ "$seen" != "$signals" ]; do
    seen=$signals
    code=0
    wait "$child" || code=$?
  done
  child=
}

for ((attempt = 1; ; attempt++)); do
  [ -z "$signal" ] || exit "$signal_code"
  attend "$@"
  if [ "$code" != 134 ] || [ "$signal" ]; then
    exit "$code"
  fi
  if [ "$attempt" -gt "$retries" ]; then
    echo "rerun: a peer of this run was lost (exit code 134) once more after $retries reruns; giving up" >&2
    exit 134
  fi
  echo "rerun: a peer of this run was lost (exit code 134); rerun $attempt of $retries in $pause s resumes" >&2
  attend sleep "$pause"
  pause=$((pause * 2 > 300 ? 300 : pause * 2))
done
