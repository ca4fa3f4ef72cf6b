"""Stands in for gcloud in test_launch.py: records its calls and imitates one TPU VM.

FAKE_GCLOUD names a folder. `calls.jsonl` there receives the words of every call. `state.json` holds the VM's state
(missing, READY, ...), the training's (none, running, ended N) and lists of what is to happen: "create" (ok, capacity,
denied), "follow" (an exit code of the run, with "lost " before it where the connection ends as the run does, preempted,
lost or ctrl-C), "ssh" (ok or down). What is not listed goes well. With "host", a folder, commands of ssh and files of
scp really reach it.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

ZONES = ("us-west4-a", "us-east5-b")


def main(words: list[str]) -> int:
    folder = pathlib.Path(os.environ["FAKE_GCLOUD"])
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    path = folder / "state.json"
    world = {"vm": "missing", "job": "none", **(json.loads(path.read_text()) if path.exists() else {})}
    try:
        return answer(words, world)
    finally:
        path.write_text(json.dumps(world))


def planned(world: dict, what: str, otherwise: str) -> str:
    return world[what].pop(0) if world.get(what) else otherwise


def complain(words: str) -> int:
    print(f"ERROR: (gcloud.compute.tpus) {words}", file=sys.stderr)
    return 1


def answer(words: list[str], world: dict) -> int:
    if words[:2] == ["storage", "rsync"]:
        return 0
    group, verb = words[2:4]
    queued = group == "queued-resources"
    if not any(f"--zone={zone}" in words for zone in ZONES):
        return complain("PERMISSION_DENIED: no such location")
    if verb == "describe":
        if world["vm"] == "missing":
            return complain("NOT_FOUND: Resource was not found")
        print({"READY": "ACTIVE", "PREEMPTED": "SUSPENDED"}.get(world["vm"], world["vm"]) if queued else world["vm"])
        if world["vm"] == "CREATING":
            world["vm"] = "READY"
    elif verb == "create":
        how = planned(world, "create", "ok")
        if how == "capacity":
            return complain('{"code": 8, "message": "There is no more capacity in the zone"}')
        if how == "denied":
            return complain("PERMISSION_DENIED: not for you")
        world.update(vm="CREATING" if queued else "READY", job="none")
    elif verb == "delete":
        world["vm"] = "missing"
    elif world["vm"] != "READY" or (verb == "ssh" and planned(world, "ssh", "ok") == "down"):
        return complain(f"the VM is {world['vm']} and cannot be reached")
    elif verb == "scp":
        if "host" in world:
            subprocess.run(["cp", words[4], f"{world['host']}/{words[5].split(':')[1]}"], check=True)
    else:
        assert verb == "ssh", words
        [command] = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
        if "host" in world:
            return subprocess.run(["bash", "-c", command], cwd=world["host"]).returncode
        return imitate(command, world)
    return 0


def imitate(command: str, world: dict) -> int:
    if "job.sh status" in command:
        print(world["job"])
    elif "job.sh start" in command:
        world["job"] = "running"
    elif "job.sh follow" in command:
        how = planned(world, "follow", "0")
        if how == "preempted":
            world.update(vm="PREEMPTED", job="none")
        if how == "ctrl-C":
            os.kill(os.getppid(), signal.SIGINT)
        if how in ("preempted", "lost", "ctrl-C"):
            return 255
        code = how.removeprefix("lost ")
        world["job"] = f"ended {code}"
        return int(code) if code == how else 255
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
