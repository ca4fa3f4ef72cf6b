#!/usr/bin/env bash
# Trains and samples on Cloud TPU VMs and pods, v4 to v6e, from a machine with bash, git and gcloud. docs/launch.md
# shows a whole run.
#
#   bash launch/tpu.sh create          makes the VM, waits for it; anew where it was preempted; nothing if it is there
#   bash launch/tpu.sh setup           copies the last commit to every host and installs it there, with a Python >= 3.11
#   bash launch/tpu.sh run [ARGS]      starts training in the background of the hosts; further arguments go to
#                                      coconet_jax.train; the same command again resumes
#   bash launch/tpu.sh watch [JOB]     follows the log of train (default) or sample, ends with its exit code; ctrl-C
#                                      leaves it going
#   bash launch/tpu.sh train [ARGS]    all of these until the run has ended well: a VM that was preempted is created
#                                      and set up anew and the same command resumes. Ends with the run's exit code
#   bash launch/tpu.sh sample [ARGS]   starts sampling from WORKDIR into OUT; arguments go to coconet_jax.sample
#                                      (default: --num_samples=10000 --bars=8)
#   bash launch/tpu.sh fetch           copies WORKDIR into FETCHED on this machine
#   bash launch/tpu.sh delete          deletes the VM and what is on its disk; what lies in gs:// stays
#
#   ZONE     zone, such as us-west4-a; there is no default, because every type has its own zones
#   TYPE     v4-N, v5litepod-N, v5p-N or v6e-N; beyond N = 8 there are several hosts (default: v5litepod-8)
#   NAME     the VM's name (default: coconet)
#   PROJECT  Google Cloud project (default: gcloud's)
#   VERSION  software of the VM (default: the one for JAX on this type)
#   SPOT     1: spot VM, cheaper, may be preempted (default: 0)
#   QUEUED   1: by a queued resource, which waits in Google's queue for a free machine (default: 0)
#   CONFIG   recipe (default: configs/paper.py)
#   WORKDIR  the run's folder, gs://bucket/folder or on the VM's disk; several hosts and spot VMs need gs://
#            (default: runs/tpu)
#   OUT      folder of the samples (default: WORKDIR/samples)
#   FETCHED  folder on this machine (default: runs/fetched)
#   WORKER   the host that watch follows (default: 0)
#   PAUSE    seconds between two looks at a VM that is not ready (default: 30)
#   DRY_RUN  1: print the commands
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$(dirname "$0")/.."
verb=${1:-}
[ $# = 0 ] || shift
case $verb in
  create | setup | run | watch | train | sample | fetch | delete) ;;
  *) fail "tpu.sh: unknown verb '$verb'; use create, setup, run, watch, train, sample, fetch or delete (--help explains)" ;;
esac

name=${NAME:-coconet}
type=${TYPE:-v5litepod-8}
zone=${ZONE:-}
workdir=${WORKDIR:-runs/tpu}
fetched=${FETCHED:-runs/fetched}
pause=${PAUSE:-30}
[ "$zone" ] || fail "ZONE is not set: give the zone of the TPU, such as ZONE=us-west4-a"
[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "ZONE=$zone is no zone; one looks like us-west4-a"
[[ $type =~ ^[a-z0-9]+-[0-9]+$ ]] || fail "TYPE=$type is no type; one looks like v5litepod-8"
case $type in
  v4-*) version=tpu-ubuntu2204-base ;;
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v6e-*) version=v2-alpha-tpuv6e ;;
  *) fail "TYPE=$type: this script serves v4-N, v5litepod-N, v5p-N and v6e-N; docs/launch.md says what there is for newer ones" ;;
esac
version=${VERSION:-$version}
for switch in SPOT QUEUED; do flag "$switch" || true; done # a wrong value ends the script here

# N counts cores (v4, v5p) or chips (v5litepod, v6e); whichever it is, one host has 8 at most.
several_hosts() {
  [ "${type##*-}" -gt 8 ]
}

on_bucket() {
  [[ $workdir == gs://* ]]
}

check_workdir() {
  if several_hosts && ! on_bucket; then
    fail "TYPE=$type has several hosts, which share the run's folder: WORKDIR=$workdir must be gs://bucket/folder"
  fi
  if several_hosts && [[ ${OUT:-gs://} != gs://* ]]; then
    fail "TYPE=$type has several hosts, which share the samples' folder: OUT=$OUT must be gs://bucket/folder"
  fi
  if flag SPOT && ! on_bucket; then
    fail "a preempted spot VM loses its disk: WORKDIR=$workdir must be gs://bucket/folder"
  fi
}

gcloud_tpus() {
  run gcloud compute tpus "$@" --zone="$zone" ${PROJECT:+"--project=$PROJECT"}
}

# One shell command on hosts: "all" or a number. The flag ends the connection when its VM is gone, which otherwise hangs.
on_host() {
  gcloud_tpus tpu-vm ssh "$name" --worker="$1" --ssh-flag=-oServerAliveInterval=30 --command="$2"
}

# The VM's state, in $state: "missing" where there is none, "unknown" where gcloud cannot tell.
look() {
  local kind=(tpu-vm describe "$name" "--format=value(state)")
  if flag QUEUED; then
    kind=(queued-resources describe "$name" "--format=value(state.state)")
  fi
  if state=$(gcloud_tpus "${kind[@]}" 2>"$errors"); then
    [ "$state" != ACTIVE ] || state=READY # as a queued resource calls it
  elif grep -q NOT_FOUND "$errors"; then
    state=missing
  else
    cat "$errors" >&2
    state=unknown
  fi
}

request() {
  local code=0
  if flag QUEUED; then
    set -- queued-resources create "$name" --node-id="$name" --runtime-version="$version"
  else
    set -- tpu-vm create "$name" --version="$version"
  fi
  set -- "$@" --accelerator-type="$type"
  if flag SPOT; then
    set -- "$@" --spot
  fi
  gcloud_tpus "$@" 2>"$errors" || code=$?
  cat "$errors" >&2
  return "$code"
}

remove() {
  if flag QUEUED; then
    gcloud_tpus queued-resources delete "$name" --force --quiet
  else
    gcloud_tpus tpu-vm delete "$name" --quiet
  fi
}

# Waits for a VM that is ready, creating it where it is missing or was preempted.
seen=
ensure() {
  while true; do
    look
    case $state in
      READY)
        seen=1
        return
        ;;
      missing)
        echo "tpu: creating $name ($type in $zone), which takes some minutes"
        if ! request; then
          grep -q -e "no more capacity" -e "internal error" "$errors" ||
            fail "$name could not be created in $zone; gcloud's words stand above"
          echo "tpu: no $type is free in $zone; trying again in $pause s"
          sleep "$pause"
        fi
        ;;
      PREEMPTED | TERMINATED | SUSPENDED)
        echo "tpu: $name is $state; creating it anew"
        remove || sleep "$pause"
        ;;
      unknown)
        # Once it could tell, it is a matter of the network.
        [ "$seen" ] || fail "gcloud cannot tell the state of $name in $zone; its words stand above"
        sleep "$pause"
        ;;
      FAILED | STOPPED | HIDDEN) fail "$name is $state; remove it by: bash launch/tpu.sh delete" ;;
      *)
        echo "tpu: $name is $state; waiting"
        sleep "$pause"
        ;;
    esac
    seen=1
  done
}

# Functions below may be called where `set -e` does not hold, hence the &&.
setup() {
  run mkdir -p .cache &&
    run git archive --format=tar.gz --output=".cache/source.$$" HEAD && # another VM may be set up at the same time
    run mv ".cache/source.$$" .cache/source.tar.gz &&
    gcloud_tpus tpu-vm scp .cache/source.tar.gz "$name:source.tar.gz" --worker=all &&
    on_host all "mkdir -p coconet && tar xzf source.tar.gz -C coconet && bash coconet/launch/host.sh tpu,gcs"
}

start() {
  on_host all "cd coconet && bash launch/job.sh start $(quoted "$@")"
}

start_train() {
  if several_hosts; then
    set -- --config.distributed.mode=auto "$@"
  fi
  start train .venv/bin/python -m coconet_jax.train --config="${CONFIG:-configs/paper.py}" --workdir="$workdir" "$@"
}

start_sample() {
  [ $# -gt 0 ] || set -- --num_samples=10000 --bars=8
  if several_hosts; then
    set -- --distributed=auto "$@"
  fi
  start sample .venv/bin/python -m coconet_jax.sample --checkpoint="$workdir" --out="${OUT:-$workdir/samples}" "$@"
}

watch() {
  on_host "${WORKER:-0}" "bash coconet/launch/job.sh follow ${1:-train}"
}

# What job.sh says of the training: running, "ended CODE", none; or unreachable.
progress() {
  on_host 0 "test ! -e coconet/launch/job.sh && echo none || bash coconet/launch/job.sh status train" || echo unreachable
}

# Ends the script with a code and its reason if the VM is still there after a pause: then the cause is not that the VM
# was lost. (The processes of a VM are ended before its state says that it was preempted.)
fail_if_up() {
  sleep "$pause"
  look
  if [ "$state" = READY ] && [ "$(progress)" != unreachable ]; then
    echo "error: $2" >&2
    exit "$1"
  fi
}

train() {
  local unreachable=0 said code
  if flag DRY_RUN; then
    request && setup && start_train "$@" && watch
    return
  fi
  while true; do
    ensure
    said=$(progress)
    if [ "$said" = unreachable ]; then
      unreachable=$((unreachable + 1))
      [ "$unreachable" -lt 20 ] || fail "$name is READY but cannot be reached by ssh; gcloud's words stand above"
      sleep "$pause"
      continue
    fi
    unreachable=0
    if [ "$said" = running ]; then
      # Starting it says that it runs, or (3) that it does by another command; a connection may fail.
      code=0
      start_train "$@" || code=$?
      [ "$code" != 3 ] || exit 3
    elif ! { setup && start_train "$@"; }; then
      fail_if_up 1 "setting up $name failed; the words above say why"
      continue
    fi
    # The connection may drop as the run ends, so a watch that failed says nothing yet.
    if watch; then said="ended 0"; else said=$(progress); fi
    case $said in
      "ended 0")
        echo "tpu: the run has ended well; fetch its results by: bash launch/tpu.sh fetch"
        return
        ;;
      "ended "*) fail_if_up "${said#ended }" "the run ended with exit code ${said#ended }; its last lines stand above" ;;
      *) sleep "$pause" ;;
    esac
  done
}

fetch() {
  run mkdir -p "$fetched"
  if on_bucket; then
    run gcloud storage rsync --recursive "$workdir" "$fetched/$(basename "$workdir")" ${PROJECT:+"--project=$PROJECT"}
  else
    case $workdir in
      /* | "~"*) gcloud_tpus tpu-vm scp --recurse "$name:$workdir" "$fetched" ;;
      *) gcloud_tpus tpu-vm scp --recurse "$name:coconet/$workdir" "$fetched" ;;
    esac
  fi
}

flag DRY_RUN || command -v gcloud >/dev/null || fail "gcloud is missing; install the Google Cloud CLI"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
trap 'exit 130' INT # a gcloud that ends by itself on ctrl-C would let the loop of train go on
case $verb in
  create) if flag DRY_RUN; then request; else ensure; fi ;;
  setup) setup ;;
  run)
    check_workdir
    start_train "$@"
    ;;
  watch) watch "$@" ;;
  train)
    check_workdir
    train "$@"
    ;;
  sample)
    check_workdir
    start_sample "$@"
    ;;
  fetch) fetch ;;
  delete) remove ;;
esac
