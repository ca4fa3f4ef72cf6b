#!/usr/bin/env bash
# Keeps one long command of a Linux host going without the terminal that started it: log, process number and exit code
# lie in runs/jobs/. launch/tpu.sh runs this on the VMs.
#
#   bash launch/job.sh start NAME COMMAND...   starts it in the background under launch/rerun.sh; nothing if it runs,
#                                              and an error, exit code 3, if what runs is another command
#   bash launch/job.sh follow NAME             shows its log until it ends, then ends with its exit code
#   bash launch/job.sh status NAME             prints: running, "ended CODE" or none
#
#   DRY_RUN  1: print the command of start
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$(dirname "$0")/.."
verb=${1:-}
name=${2:-}
case $verb in
  start | follow | status) ;;
  *) fail "job.sh: unknown verb '$verb'; use start, follow or status" ;;
esac
[ "$name" ] || fail "job.sh $verb needs a name"
shift 2
base=runs/jobs/$name

# The process is asked for its command line too, because numbers are given anew after a reboot. (A moment after its start
# it still is this script.)
running() {
  [ -e "$base.pid" ] && grep -qs -e launch/rerun.sh -e launch/job.sh "/proc/$(cat "$base.pid")/cmdline"
}

case $verb in
  start)
    [ $# -gt 0 ] || fail "job.sh start $name needs a command"
    if running; then
      if [ -e "$base.command" ] && [ "$(cat "$base.command")" != "$(quoted "$@")" ]; then
        echo "error: $name already runs here, by another command: $(tr '\n' ' ' <"$base.command"); wait for its end" >&2
        exit 3
      fi
      echo "$name already runs here"
    else
      echo "$name: $(quoted "$@")"
      # A session of its own is not ended with the terminal's.
      if flag DRY_RUN; then
        run setsid bash launch/rerun.sh "$@"
      else
        mkdir -p runs/jobs
        rm -f "$base.exit"
        quoted "$@" >"$base.command"
        # shellcheck disable=SC2016 # expanded by the inner shell
        setsid bash -c 'base=$1; shift; bash launch/rerun.sh "$@"; echo $? >"$base.exit"' \
          launch/rerun.sh "$base" "$@" >>"$base.log" 2>&1 </dev/null &
        echo $! >"$base.pid"
      fi
    fi
    ;;
  follow)
    [ -e "$base.pid" ] || fail "no $name was started here"
    tail -n 200 --pid="$(cat "$base.pid")" -f "$base.log"
    [ -e "$base.exit" ] || fail "$name was ended by force; its log: $base.log"
    exit "$(cat "$base.exit")"
    ;;
  status)
    if running; then
      echo running
    elif [ -e "$base.exit" ]; then
      echo "ended $(cat "$base.exit")"
    else
      echo none
    fi
    ;;
esac
