"""The scripts for TPU slices: every command in order, what is restarted, what is refused."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from train_jax.hosts import PREEMPTED_EXIT_CODE

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"
SCRIPT, WORKER = LAUNCH / "tpu_vm.sh", LAUNCH / "worker.sh"

NAME = ("--name=vit", "--zone=europe-west4-a")
TYPE = ("--type=v3-32", "--poll_s=0")
# Commas, colons, spaces, quotes, a variable and a star: all must arrive as they are.
COMMAND = (
    *("python", "-m", "vit_jax.train", "--config=experiments/vit/pretrain.py:L/16,imagenet21k"),
    *("--config.checkpoint.every=2 steps", '--config.note=it\'s $HOME * "x"', "--workdir=gs://b/r"),
)

# Records its words. Answers `describe` and the status of the workers from lists, a line each call;
# "!7 text" is exit code 7 with that text as an error. The last line of a list stays.
GCLOUD = """#!{python} -SE
import json, pathlib, sys
home = pathlib.Path(__file__).parents[1]
with (home / "calls").open("a") as calls:
    calls.write(json.dumps(["gcloud", *sys.argv[1:]]) + "\\n")
words = " ".join(sys.argv)
kinds = {{"describe": " describe ", "status": "worker.sh status", "create": " create "}}
for kind, sign in kinds.items():
    path = home / kind
    if sign in words and path.exists():
        answer, *rest = path.read_text().split("\\n")
        if rest:
            path.write_text("\\n".join(rest))
        code, _, text = answer[1:].partition(" ") if answer[:1] == "!" else (0, "", answer)
        print(text.replace("|", "\\n"), file=sys.stderr if int(code) else sys.stdout)
        sys.exit(int(code))
    if sign in words:
        break
"""


SETTINGS = ("TPU_NAME", "ZONE", "PROJECT_ID", "ACCELERATOR_TYPE", "RUNTIME_VERSION")


def bash(*words, **environ):
    clean = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    return subprocess.run(
        ["bash", *map(str, words)],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Cloud:
    """A directory with a fake gcloud and git, for a PATH."""

    def __init__(self, home):
        self.home = home
        (home / "bin").mkdir()
        for name in ("gcloud", "git"):
            program = home / "bin" / name
            program.write_text(
                GCLOUD.format(python=sys.executable).replace('"gcloud"', f'"{name}"')
            )
            program.chmod(0o755)

    def answer(self, kind, *lines):
        (self.home / kind).write_text("\n".join(lines))

    def run(self, *words, **environ):
        path = f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return bash(SCRIPT, *words, PATH=path, **environ)

    def calls(self):
        path = self.home / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def story(self):
        return [what(call) for call in self.calls() if what(call)]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def what(call):
    """A call in one word; None for those that ask."""
    words = " ".join(call)
    for name, sign in {
        "archive": "git .* archive",
        "create": "queued-resources create",
        "delete": "queued-resources delete",
        "send": "tpu-vm scp",
        "install": "worker.sh install",
        "start": "worker.sh start",
        "stop": "worker.sh stop",
        "kill": "worker.sh kill",
        "log": "worker.sh log",
        "fetch": "storage rsync",
    }.items():
        if re.search(sign, words):
            return name
    return None


INSTALLED = ["archive", "send", "install"]
QR = "gcloud compute tpus queued-resources"
WHERE = "--quiet --zone=europe-west4-a"


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [shellcheck, SCRIPT, WORKER, LAUNCH.parents[1] / ".ci" / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def dry(action, *words, **environ):
    """The commands of a dry run, where none of them could be run."""
    with tempfile.TemporaryDirectory() as path:
        for name in ("bash", "dirname", "sed"):
            Path(path, name).symlink_to(shutil.which(name))
        done = bash(SCRIPT, action, "--dry_run", *words, **environ, PATH=path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("words", "commands"),
    [
        (
            ("create", *NAME, "--project=p", "--type=v5litepod-16", "--spot"),
            [
                f"{QR} create vit --node-id=vit {WHERE} --project=p "
                "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot",
                f"{QR} describe vit {WHERE} --project=p '--format=value(state.state)'",
            ],
        ),
        (
            ("install", *NAME, "--python=3.13"),
            [
                f"git -C {LAUNCH.parents[1]} archive --format=tar.gz "
                "--output=/tmp/vit-pose-jax-vit.tar.gz HEAD",
                "gcloud compute tpus tpu-vm scp /tmp/vit-pose-jax-vit.tar.gz "
                f"vit:vit-pose-jax.tar.gz {WHERE} --worker=all",
                f"gcloud compute tpus tpu-vm ssh vit {WHERE} --worker=all "
                "'--command=mkdir -p vit-pose-jax && tar -xzf vit-pose-jax.tar.gz -C vit-pose-jax "
                "&& bash vit-pose-jax/experiments/launch/worker.sh install 3.13'",
            ],
        ),
        (
            ("logs", *NAME, "--worker=3"),
            [
                f"gcloud compute tpus tpu-vm ssh vit {WHERE} --worker=3 "
                "'--command=bash vit-pose-jax/experiments/launch/worker.sh log 100 -F'"
            ],
        ),
        (
            ("stop", *NAME),
            [
                f"gcloud compute tpus tpu-vm ssh vit {WHERE} --worker=all "
                "'--command=bash vit-pose-jax/experiments/launch/worker.sh stop'"
            ],
        ),
        (
            ("fetch", *NAME, "--workdir=gs://b/r", "--to=out"),
            ["mkdir -p out", "gcloud storage rsync --quiet --recursive gs://b/r out"],
        ),
        (("delete", *NAME), [f"{QR} delete vit {WHERE} --force"]),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_dry_run_prints_the_commands(words, commands):
    assert dry(*words, TMPDIR="/tmp") == commands


def test_a_dry_run_of_everything_has_every_command(tmp_path):
    lines = dry("run", *NAME, *TYPE, "--", *COMMAND, TMPDIR=str(tmp_path))
    again = ["start", "delete", "create", *INSTALLED, "start"]
    story = [what(shlex.split(line)) for line in lines]
    assert [name for name in story if name] == ["create", *INSTALLED, "start", *again, "delete"]
    resumed = dry("resume", *NAME, *TYPE, "--", *COMMAND)
    assert [name for name in map(what, map(shlex.split, resumed)) if name] == again
    assert len(dry("status", *NAME)) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_words_of_the_command_arrive_as_they_are(tmp_path):
    """Through three readers: this shell, a remote one, and the program."""
    [line] = dry("start", *NAME, "--", *COMMAND)
    remote = shlex.split(line)[-1].removeprefix("--command=")
    assert tuple(shlex.split(remote)[3:]) == COMMAND
    (tmp_path / "vit-pose-jax/experiments/launch").mkdir(parents=True)
    (tmp_path / "vit-pose-jax/experiments/launch/worker.sh").write_text('printf "%s\\n" "$@"')
    heard = subprocess.run(
        ["bash", "-c", remote], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert heard.stdout.splitlines() == ["start", *COMMAND]


@pytest.mark.parametrize(
    ("type_", "runtime"),
    [
        ("v2-8", "tpu-ubuntu2204-base"),
        ("v3-512", "tpu-ubuntu2204-base"),
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_every_generation_has_its_runtime(type_, runtime):
    line = dry("create", TPU_NAME="vit", ZONE="z", ACCELERATOR_TYPE=type_, PROJECT_ID="p")[0]
    assert f"--accelerator-type={type_} --runtime-version={runtime}" in line
    assert "--zone=z --project=p" in line
    line = dry("create", *NAME, f"--type={type_}", "--runtime=mine", "--create_flag=--tags=a,b")[0]
    assert line.endswith("--runtime-version=mine --tags=a,b")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("crate", *NAME), "'crate' is no action"),
        (("create", "--zone=z", "--type=v3-8"), "--name is missing; name the slice"),
        (("create", "--name=Vit_1", "--zone=z", "--type=v3-8"), "--name=Vit_1 is no name"),
        (("create", "--name=vit", "--type=v3-8"), "--zone is missing"),
        (("create", *NAME), "--type is missing"),
        (("create", *NAME, "--type=v9-8"), "--type=v9-8 is unknown; types look like"),
        (("create", *NAME, "--type=v3"), "--type=v3 is unknown"),
        (("create", *NAME, "--type=v5e-16"), "is called v5litepod-16"),
        (("create", *NAME, "--type=tpu7x-8"), "run v7 on GKE"),
        (("create", *NAME, *TYPE, "--sopt"), "'--sopt' is no flag of tpu_vm.sh create"),
        (("create", *NAME, "--type", "v3-8"), "'--type' is no flag"),
        (("start", *NAME), "The command of the run is missing; give it after --"),
        (("start", *NAME, "--", "python", "--workdir=/tmp/x"), "no --workdir=gs://"),
        (("resume", *NAME, "--", *COMMAND), "--type is missing"),
        (
            ("run", *NAME, *TYPE, "--max_restarts=x", "--", *COMMAND),
            "--max_restarts=x is no number",
        ),
        (("fetch", *NAME, "--to=out"), "--workdir is missing"),
        (("fetch", *NAME, "--workdir=gs://b/r"), "--to is missing"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(cloud, words, fault):
    done = cloud.run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert fault in done.stderr
    assert cloud.calls() == []


def test_without_gcloud_it_says_what_to_install(tmp_path):
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = bash(SCRIPT, "delete", *NAME, PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "Error: gcloud is not installed; install the Google Cloud CLI "
        "(https://cloud.google.com/sdk/docs/install).\n"
    )


def test_help_tells_of_every_action_and_flag():
    text = SCRIPT.read_text()
    shown = bash(SCRIPT, "--help").stdout
    assert bash(SCRIPT).stdout == shown
    for flag in re.findall(r"^ +(--\w+)=?\*?\) ", text, re.MULTILINE):
        assert flag in shown, flag
    for action in (
        "create",
        "install",
        "start",
        "status",
        "logs",
        "resume",
        "stop",
        "delete",
        "run",
    ):
        assert f"tpu_vm.sh {action} " in shown


def test_create_waits_until_the_slice_is_there(cloud):
    cloud.answer("describe", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "!1 503", "ACTIVE")
    done = cloud.run("create", *NAME, *TYPE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is WAITING_FOR_RESOURCES") == 1
    assert len(cloud.calls()) == 5


@pytest.mark.parametrize("slice_", ["FAILED", "SUSPENDED"])
def test_create_says_when_there_will_be_no_slice(cloud, slice_):
    cloud.answer("describe", "PROVISIONING", slice_)
    done = cloud.run("create", *NAME, *TYPE)
    assert done.returncode == 1
    assert f"Error: The slice vit is {slice_}" in done.stderr


def test_everything_in_order(cloud):
    cloud.answer("describe", "!1 NOT_FOUND: Resource was not found", "PROVISIONING", "ACTIVE")
    status = ["worker: bare|worker: bare", "worker: running|worker: running"]
    cloud.answer("status", *status, "worker: exited 0|worker: exited 0")
    done = cloud.run("run", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert cloud.story() == ["create", *INSTALLED, "start", "delete"]
    start = next(call for call in cloud.calls() if what(call) == "start")
    assert tuple(shlex.split(start[-1].removeprefix("--command="))[3:]) == COMMAND


@pytest.mark.parametrize(
    "ended",
    [
        f"worker: exited {PREEMPTED_EXIT_CODE}|worker: exited {PREEMPTED_EXIT_CODE}",
        f"worker: exited 137|worker: exited {PREEMPTED_EXIT_CODE}",
        f"worker: exited 134|worker: exited 0|worker: exited {PREEMPTED_EXIT_CODE}",
        # JAX aborts those that wait for a lost one within a save, all of them if it was the first.
        "worker: exited 134|worker: exited 134",
        "worker: exited 143",
        f"worker: lost|worker: exited {PREEMPTED_EXIT_CODE}",
    ],
)
def test_a_run_that_was_stopped_or_lost_a_worker_is_started_again(cloud, ended):
    cloud.answer("describe", "ACTIVE")
    cloud.answer("status", "worker: running|worker: running", ended, ended, "worker: exited 0")
    done = cloud.run("resume", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert cloud.story() == ["start", "start"]
    assert "restart 2 of at most 100" in done.stderr


@pytest.mark.parametrize("slice_", ["SUSPENDED", "FAILED"])
def test_a_preempted_slice_is_created_again(cloud, slice_):
    cloud.answer("describe", "ACTIVE", "SUSPENDING", slice_, "WAITING_FOR_RESOURCES", "ACTIVE")
    cloud.answer("status", "worker: running", "worker: bare", "worker: exited 0")
    done = cloud.run("resume", *NAME, *TYPE, "--spot", "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert cloud.story() == ["delete", "create", *INSTALLED, "start"]
    create = next(call for call in cloud.calls() if what(call) == "create")
    assert create[-1] == "--spot"


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ("worker: exited 2|worker: exited 75", 2),
        ("worker: exited 75|worker: exited 1", 1),
        ("worker: exited 1|worker: exited 2", 2),
        ("worker: exited 139", 139),
    ],
)
def test_what_somebody_has_to_mend_ends_it_and_keeps_the_slice(cloud, ended, code):
    cloud.answer("describe", "ACTIVE")
    cloud.answer("status", "worker: running", ended)
    done = cloud.run("run", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == code
    assert f"The run ended with exit code {code}" in done.stderr
    assert "the slice vit is kept" in done.stderr
    assert cloud.story() == ["log"]


def test_restarts_have_an_end(cloud):
    cloud.answer("describe", "ACTIVE")
    cloud.answer("status", f"worker: exited {PREEMPTED_EXIT_CODE}")
    done = cloud.run("resume", *NAME, *TYPE, "--max_restarts=3", "--", *COMMAND)
    assert done.returncode == 1
    assert "was started again 3 times" in done.stderr
    assert cloud.story() == ["start"] * 3


def test_workers_that_wait_for_an_ended_one_are_ended(cloud):
    mixed = f"worker: exited {PREEMPTED_EXIT_CODE}|worker: running"
    cloud.answer("describe", "ACTIVE")
    cloud.answer(
        "status", *[mixed] * 10, "worker: exited 75|worker: exited 137", "worker: exited 0"
    )
    done = cloud.run("resume", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert cloud.story() == ["kill", "start"]


def test_a_slice_that_cannot_be_reached_for_a_while_is_no_end(cloud):
    cloud.answer("describe", "ACTIVE", "!1 503 try again", "ACTIVE")
    cloud.answer("status", "!255 no route", "worker: running", "!255 no route", "worker: exited 0")
    done = cloud.run("resume", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert cloud.story() == []
    cloud.answer("status", "!255 no route")
    done = cloud.run("resume", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 1
    assert "Error: The slice vit cannot be used" in done.stderr


def test_a_slice_that_cannot_be_created_is_said_at_once(cloud):
    cloud.answer("describe", "!1 NOT_FOUND")
    cloud.answer("create", "!1 Quota exceeded")
    done = cloud.run("run", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 1
    assert "Quota exceeded" in done.stderr
    assert cloud.story() == ["create"]


def test_another_command_on_the_slice_is_left_alone(cloud):
    cloud.answer("describe", "ACTIVE")
    cloud.answer("status", "worker: busy")
    done = cloud.run("resume", *NAME, *TYPE, "--", *COMMAND)
    assert done.returncode == 2
    assert "runs another command" in done.stderr
    assert cloud.story() == []


# ---------------------------------------------------------------------------- what a worker does


class Worker:
    """A home directory with the repository's scripts, as on a TPU VM."""

    def __init__(self, home):
        self.home = home
        scripts = home / "vit-pose-jax" / "experiments" / "launch"
        scripts.mkdir(parents=True)
        (scripts / "worker.sh").write_text(WORKER.read_text())
        self.script = scripts / "worker.sh"
        self.run_directory = home / "vit-pose-jax-run"

    def installed(self):
        environment = self.home / "vit-pose-jax" / ".venv"
        environment.mkdir()
        (environment / "installed").touch()

    def __call__(self, *words):
        done = bash(self.script, *words, HOME=str(self.home))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for(self, status, *words):
        for _ in range(500):
            if self("status", *words) == f"worker: {status}":
                return
            time.sleep(0.02)
        raise AssertionError(self("status", *words))


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    assert worker("status") == "worker: bare"
    worker.installed()
    assert worker("status") == "worker: idle"
    assert worker("log") == ""
    yield worker
    worker("kill")


# Like a run of ours: told to stop, it saves and ends with code 75.
LISTENS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("stepping", flush=True)
time.sleep(60)
"""


def test_a_run_outlives_its_connection_and_saves_when_it_is_told_to(worker):
    command = (sys.executable, "-c", LISTENS, *COMMAND)
    worker("start", *command)
    worker.wait_for("running", *command)
    while "stepping" not in worker("log"):
        time.sleep(0.02)
    again = bash(worker.script, "start", *command, HOME=str(worker.home))
    assert again.returncode == 2
    assert "stop it first" in again.stderr
    assert worker("status", "another") == "worker: busy"
    worker("stop")
    worker.wait_for(f"exited {PREEMPTED_EXIT_CODE}", *command)
    assert worker("log") == "stepping\nsaved"
    assert worker("status", "another") == "worker: idle"


def test_every_start_has_its_exit_code_and_the_log_goes_on(worker):
    for code in (75, 0):
        command = ("bash", "-c", f"echo {code}; exit {code}")
        worker("start", *command)
        worker.wait_for(f"exited {code}", *command)
    assert worker("log") == "75\n0"
    assert worker("log", "1") == "0"


def test_the_words_reach_the_program_on_the_worker(worker):
    program = "import json, os, sys; print(json.dumps([os.getcwd(), *sys.argv[1:]]))"
    command = (sys.executable, "-c", program, *COMMAND)
    worker("start", *command)
    worker.wait_for("exited 0", *command)
    assert json.loads(worker("log")) == [str(worker.home / "vit-pose-jax"), *COMMAND]


def test_a_machine_that_was_started_again_has_lost_its_run(worker):
    worker("start", "sleep", "60")
    worker.wait_for("running")
    os.killpg(int((worker.run_directory / "pid").read_text()), signal.SIGKILL)
    worker.wait_for("lost")


def test_install_makes_an_environment_of_its_own(tmp_path):
    worker = Worker(tmp_path)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/bash\necho "$*" >>{tmp_path}/calls\nmkdir -p {tmp_path}/vit-pose-jax/.venv\n'
    )
    python.chmod(0o755)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):
        done = bash(worker.script, "install", "3.12", HOME=str(tmp_path), PATH=path)
        assert done.returncode == 0, done.stderr
    assert worker("status") == "worker: idle"
    repository = tmp_path / "vit-pose-jax"
    assert (tmp_path / "calls").read_text().splitlines() == 2 * [
        "-m pip install --quiet --user uv",
        f"-m uv venv --quiet --allow-existing --python 3.12 {repository}/.venv",
        f"-m uv pip install --quiet --python {repository}/.venv --editable {repository}[tpu]",
    ]


# --------------------------------------------------------------------------------------------- GKE


def test_the_manifest_is_filled_in_and_restarts_what_the_script_restarts():
    values = {
        "NAME": "vit",
        "IMAGE": "registry/image",
        "ACCELERATOR": "tpu-v6e-slice",
        "TOPOLOGY": "4x4",
        "HOSTS": "4",
        "CHIPS_PER_HOST": "4",
        "COMMAND": shlex.join(COMMAND),
    }
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", text)) == set(values)
    jobset = yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text))
    assert jobset["kind"] == "JobSet"
    [slices] = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert job["backoffLimit"] == 0
    [rule] = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["operator"]) == ("FailJob", "NotIn")
    assert codes["values"] == [PREEMPTED_EXIT_CODE, 134, 137, 143]
    assert f"readonly PREEMPTED={PREEMPTED_EXIT_CODE} " in SCRIPT.read_text()
    [refused] = jobset["spec"]["failurePolicy"]["rules"]
    assert refused == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert codes["containerName"] == container["name"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert shlex.split(container["args"][0]) == ["exec", *COMMAND]


def test_the_readme_tells_the_exact_sequence():
    """Every command of it passes the checks of a dry run."""
    text = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    lines = [
        line.split("#")[0] for line in re.findall(r"^experiments/launch/.*", text, re.MULTILINE)
    ]
    actions = [line.split()[1] for line in lines]
    assert actions[0] == "run"
    assert actions[1:] == [
        *("create", "install", "start", "logs", "status", "resume", "stop", "fetch", "delete")
    ]
    environ = {"TPU_NAME": "vit-l16", "ZONE": "europe-west4-a", "ACCELERATOR_TYPE": "v3-32"}
    run = re.search(r'^run="(.*)"$', text, re.MULTILINE)
    assert run is not None
    for line in lines:
        words = shlex.split(line.replace("$run", run[1]))[1:]
        assert dry(*words, **environ)
