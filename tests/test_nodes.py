"""Several processes and nodes train one run: as one process would, through losses and restarts; or say why not."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ports import held_port
from superfine.cli import app
from superfine.cli_train import _Lines, _Silence
from superfine.errors import TrainingError
from superfine.train import nodes, state
from superfine.train.config import read_recipe
from superfine.train.listener import Listener
from superfine.train.log import read_log
from superfine.train.loop import train
from superfine.train.nodes import StoppedError, ToldError, agree, goes_on, open_fabric, refuse, same_folder, together
from superfine.train.pretrained import STATE, read_state

LONGEST_SECONDS = 600
EXAMPLES = Path(__file__).parents[1] / "examples" / "cluster"
RECIPE = """
net = "plain-16x11"
scale = 2
precision = "fp32"
seed = 7
validate_every = 4
save_every = 5
data = {folders = ["a"], hold_out = {a = 1}}
stages = [{steps = 10, batch = 4, patch = 6, loss = {l1 = 1.0}}]
optimizer = {warm_up = 3}
"""
# `superfine`, in which something happens at step 8 of the first try, when the state of step 5 is saved.
MISHAP = """
import os, signal
import torch
from superfine.cli import main
from superfine.train import loop

def step(parts, state, batch, config, step):
    if step == 8 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        happen(os.environ["RANK"])
    return real(parts, state, batch, config, step)

real, loop._train_step = loop._train_step, step
"""
KILLED = """
def happen(rank):
    if rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
main()
"""
# What started the processes is asked to end, and asks them; they go on when it has.
TERMINATED = """
def happen(rank):
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    torch.distributed.barrier()  # the other one hears it too
    if rank == "0":
        os.kill(os.getppid(), signal.SIGTERM)
    os.read(heard, 1)
main()
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with a recipe and its pictures."""
    root, draw = tmp_path_factory.mktemp("job"), np.random.default_rng(0)
    (root / "a").mkdir()
    for number in range(4):
        small = Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        small.resize((45 + number, 37), Image.Resampling.BICUBIC).save(root / "a" / f"{number}.png")
    (root / "tiny.toml").write_text(RECIPE)
    return root


def words(job, run):
    return ["train", str(job / "tiny.toml"), "--data", str(job), "--run", str(run)]


def torchrun(*options):
    """What comes after these options is the program; without the dashes torchrun takes `--run` for one of its own."""
    return [sys.executable, "-m", "torch.distributed.run", *map(str, options), "--"]


def begun(command, **more):
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def two_nodes(*commands):
    """Two torchruns, as on two nodes; (exit status, output) of each."""
    meeting = ("--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d")
    meeting += ("--rdzv-endpoint", f"127.0.0.1:{held_port()}", "--local-addr", "127.0.0.1")
    agents = [begun([*torchrun(*meeting), *command]) for command in commands]
    told = [agent.communicate(timeout=LONGEST_SECONDS)[0] for agent in agents]
    return [(agent.returncode, text) for agent, text in zip(agents, told, strict=True)]


def assert_same(one, other, compare):
    """Two states hold the same, tensors by `compare`."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], compare)
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair, compare)
    elif isinstance(one, torch.Tensor):
        compare(other, one)
    else:
        assert one == other


def same_bits(one, other):
    assert torch.equal(one, other)


def nearly(one, other, part=1e-5):
    """To a part of the largest; Adam divides small gradients by their size, and so makes rounding errors larger."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=part * float(other.abs().max()))


def learned(run):
    content = read_state(run / STATE)
    return {name: content[name] for name in ("step", "net", "ema", "optimizer")}


@pytest.fixture(scope="module")
def two(job):
    """The run of two nodes, and what each printed."""
    run = job / "two"
    command = ["-m", "superfine", *words(job, run)]
    (first, said), (second, silent) = two_nodes(command, command)
    assert (first, second) == (0, 0), said + silent
    return run, said, silent


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_learns(job, two, tmp_path):
    run, said, silent = two
    train(read_recipe(job / "tiny.toml"), job, tmp_path)
    assert_same(learned(tmp_path), learned(run), nearly)
    before = state.begin(read_recipe(job / "tiny.toml")).net.state_dict()
    assert not torch.equal(learned(run)["net"]["head.expand"], before["head.expand"]), "nothing was learned"
    curves = [[(row["step"], row["loss"]) for row in read_log(place) if "loss" in row] for place in (tmp_path, run)]
    assert [step for step, _ in curves[0]] == [4, 8, 10]
    assert [loss for _, loss in curves[1]] == pytest.approx([loss for _, loss in curves[0]], rel=1e-5)
    assert {entry.name for entry in run.iterdir()} == {entry.name for entry in tmp_path.iterdir()}
    if "pictures judge the run" in silent:  # which of the two is the first is theirs to settle
        said, silent = silent, said
    for sentence in ("decoding 4 pictures", "1 pictures judge the run", "10 of 10: loss", "validation, 1 p", "done;"):
        assert said.count(sentence) == 1, sentence
        assert sentence not in silent


@pytest.mark.slow
def test_a_critic_and_a_teacher_in_two_processes(job, tmp_path):
    """The one learns beside the network, the other doesn't learn."""
    changes = ('critic={name="patch", penalty=1.0}', 'teacher={model="fast-x2"}', "stages.0.patch=16")
    changes += ("stages.0.loss={l1=1.0, adversarial=0.01}",)
    config = read_recipe(job / "tiny.toml", changes)
    one = train(config, job, tmp_path / "one")
    alone = torchrun("--standalone", "--nproc-per-node", 2)
    options = [word for change in changes for word in ("--set", change)]
    agent = begun([*alone, "-m", "superfine", *words(job, tmp_path / "two"), *options])
    said, _ = agent.communicate(timeout=LONGEST_SECONDS)
    assert agent.returncode == 0, said
    other = read_state(tmp_path / "two" / STATE)
    assert_same(one.net.state_dict(), other["net"], partial(nearly, part=1e-4))
    assert_same(one.opponent.net.state_dict(), other["critic"], partial(nearly, part=1e-4))


@pytest.mark.slow
def test_a_killed_worker_is_made_up_for_to_the_bit(job, two, tmp_path):
    (tmp_path / "killed.py").write_text(MISHAP + KILLED)
    run = tmp_path / "run"
    alone = torchrun("--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    agent = begun([*alone, str(tmp_path / "killed.py"), *words(job, run)])
    said, _ = agent.communicate(timeout=LONGEST_SECONDS)
    assert agent.returncode == 0, said
    assert "Signal 9 (SIGKILL)" in said or "exitcode: -9" in said, said
    assert_same(learned(run), learned(two[0]), same_bits)
    assert [row["step"] for row in read_log(run)] == [0, 4, 8, 10]
    assert {entry.name for entry in run.iterdir()} == {entry.name for entry in two[0].iterdir()}


@pytest.mark.slow
def test_a_restart_does_not_take_over_a_run_that_was_there(job, two):
    before = (two[0] / STATE).read_bytes()
    alone = torchrun("--standalone", "--nproc-per-node", 1, "--max-restarts", 1)
    agent = begun([*alone, "-m", "superfine", *words(job, two[0])])
    said, _ = agent.communicate(timeout=LONGEST_SECONDS)
    assert agent.returncode == 1
    assert said.count("holds a run already; --resume goes on with it") == 2, said
    assert (two[0] / STATE).read_bytes() == before


@pytest.mark.slow
def test_nodes_with_different_folders_are_refused(job, tmp_path):
    told = two_nodes(*(["-m", "superfine", *words(job, tmp_path / name)] for name in ("here", "there")))
    assert all(status == 1 for status, _ in told)
    both = "".join(text for _, text in told)
    assert both.count("superfine: ") == 1, both
    assert both.count("has another folder there than") == 1
    assert "--run wants one that all nodes share" in both
    assert [path.name for path in tmp_path.rglob("*.*")] == [], "nothing is left behind"


@pytest.mark.slow
def test_asked_to_end_all_save_one_step(job, two, tmp_path):
    (tmp_path / "terminated.py").write_text(MISHAP + TERMINATED)
    run = tmp_path / "run"
    alone = torchrun("--standalone", "--nproc-per-node", 2)
    agent = begun([*alone, tmp_path / "terminated.py", *words(job, run)])
    said, _ = agent.communicate(timeout=LONGEST_SECONDS)
    assert agent.returncode != 0
    assert said.count("stopped after step 8, which is saved; --resume goes on from there") == 1, said
    assert read_state(run / STATE)["step"] == 8
    agent = begun([*alone, "-m", "superfine", *words(job, run), "--resume"])
    said, _ = agent.communicate(timeout=LONGEST_SECONDS)
    assert agent.returncode == 0, said
    assert_same(learned(run), learned(two[0]), same_bits)


# ---- the files of examples/cluster


@pytest.mark.slow
def test_the_file_for_ray_train(job, two, tmp_path):
    pytest.importorskip("ray.train", reason="needs ray[train]", exc_type=ImportError)
    command = [sys.executable, EXAMPLES / "ray_train.py", job / "tiny.toml", "--data", job, "--run", tmp_path / "run"]
    script = begun([*map(str, command), "--workers", "2", "--address", "local"])
    said, _ = script.communicate(timeout=LONGEST_SECONDS)
    assert script.returncode == 0, said
    assert said.count("10 of 10: loss ") == 1, said
    assert_same(learned(tmp_path / "run"), learned(two[0]), same_bits)


def put_stub(folder, name, body):
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def soon(seconds):
    """What prints when a job ends, as squeue does."""
    return f'date --date "{seconds} seconds" +%FT%T'


def as_slurm(folder, **more):
    ours = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    number = str(os.getpid() % 10000)  # whose port, from 20000 on, is none that a system gives by itself
    job = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    return {**os.environ, **job, "PATH": ours, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_the_file_for_slurm(job, two, tmp_path):
    """Where `srun` starts its command once for each of two nodes, as SLURM does."""
    put_stub(tmp_path, "scontrol", '[ "$*" = "show hostnames node[1-2]" ] && printf "127.0.0.1\\nnode2\\n"')
    put_stub(tmp_path, "squeue", soon(3600))
    put_stub(tmp_path, "srun", 'shift; "$@" & first=$!; "$@" && wait "$first"')
    command = ["bash", EXAMPLES / "slurm-train.sh", job / "tiny.toml", job, tmp_path / "run"]
    done = subprocess.run(
        [*map(str, command), "--set", "threads=1"],
        env=as_slurm(tmp_path),
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same(learned(tmp_path / "run"), learned(two[0]), same_bits)


@pytest.mark.parametrize(
    ("status", "seconds_left", "queued"), [(0, 60, False), (1, 3600, False), (143, 60, True)], ids=str
)
def test_a_slurm_job_out_of_time_queues_again(tmp_path, status, seconds_left, queued):
    # More names than a pipe holds: whoever reads the first alone breaks it.
    put_stub(tmp_path, "scontrol", f'[ "$1" = requeue ] && echo "$@" > {tmp_path}/asked; seq -f node%g 20000')
    put_stub(tmp_path, "srun", f'printf "%s\\n" "$@" > {tmp_path}/started; exit {status}')
    put_stub(tmp_path, "squeue", f'[ "$*" = "--noheader --jobs 12345 --format %e" ] && {soon(seconds_left)}')
    command = ["bash", EXAMPLES / "slurm-train.sh", "my recipe.toml", "data", "run", "--set", "seed=1"]
    more = {"SLURM_JOB_ID": "12345", "SLURM_GPUS_ON_NODE": "4"}
    done = subprocess.run(command, env=as_slurm(tmp_path, **more), capture_output=True, text=True, check=False)
    assert done.returncode == (0 if queued else status), done.stderr
    assert (tmp_path / "asked").exists() == queued
    started = (tmp_path / "started").read_text().splitlines()
    verb = ["-m", "superfine", "train", "my recipe.toml", "--data", "data", "--run", "run", "--resume"]
    assert started[-len(verb) - 2 :] == [*verb, "--set", "seed=1"]
    assert started[started.index("--nproc-per-node") + 1] == "4"
    assert started[started.index("--rdzv-endpoint") + 1] == "node1:22345"


@pytest.mark.parametrize("told", ["echo N/A", "echo Unknown", "true", "false"])
def test_a_slurm_job_without_an_end_that_is_known_does_not_queue_again(tmp_path, told):
    put_stub(tmp_path, "scontrol", f'[ "$1" = requeue ] && echo "$@" > {tmp_path}/asked; echo node1')
    put_stub(tmp_path, "srun", "exit 7")
    put_stub(tmp_path, "squeue", told)
    command = ["bash", EXAMPLES / "slurm-train.sh", "recipe.toml", "data", "run"]
    done = subprocess.run(command, env=as_slurm(tmp_path), capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "asked").exists(), done.stderr) == (7, False, "")


def test_the_file_for_slurm_says_what_is_missing(tmp_path):
    command = ["bash", EXAMPLES / "slurm-train.sh", "recipe.toml", "data"]
    done = subprocess.run(command, env=as_slurm(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "RUN is missing" in done.stderr


# ---- one process


class Stops(Listener):
    """Asks for an end after some steps."""

    def __init__(self, after):
        self.steps, self.after = 0, after

    def stops(self):
        self.steps += 1
        return self.steps == self.after


@pytest.mark.parametrize("after", [4, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 5, 9))])
def test_stopped_and_resumed_equals_unbroken_to_the_bit(job, tmp_path, after):
    config = read_recipe(job / "tiny.toml")
    with pytest.raises(StoppedError, match=f"stopped after step {after}, which is saved; --resume goes on from there"):
        train(config, job, tmp_path / "stopped", listener=Stops(after))
    assert read_state(tmp_path / "stopped" / STATE)["step"] == after
    train(config, job, tmp_path / "stopped", go_on=True)
    train(config, job, tmp_path / "unbroken", listener=Stops(10))  # at its end there is nothing to stop
    assert_same(learned(tmp_path / "stopped"), learned(tmp_path / "unbroken"), same_bits)


def test_the_command_stops_at_sigterm_and_says_so(job, tmp_path, monkeypatch):
    asked = []

    def terminate_at_the_third(listener):
        asked.append(None)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(listener)

    real = _Silence.stops
    monkeypatch.setattr(_Silence, "stops", terminate_at_the_third)
    result = CliRunner().invoke(app, words(job, tmp_path))
    assert result.exit_code == 143, result.output
    assert "stopped after step 3, which is saved" in result.output
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_before_the_first_step_ends_at_once():
    code = "import os, signal\nfrom superfine.cli_train import _Silence\nwith _Silence():\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "    os.kill(os.getpid(), signal.SIGTERM)\n    print('went on')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_who_handles_sigterm_itself_keeps_it():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with _Lines():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_only_the_first_process_talks(job, tmp_path, monkeypatch):
    """One of one that takes itself for the second of many."""
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(app, words(job, tmp_path))
    assert (result.exit_code, result.output) == (0, "")


def test_teaching_a_shipped_network_takes_one_process(job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(nodes.SuperfineError, match="--from takes one process; for several give a recipe"):
        CliRunner().invoke(app, ["train", "--from", "fast-x2", "--data", str(job)], catch_exceptions=False)


# ---- what processes agree on


def fabric(rank, world=2):
    return SimpleNamespace(
        world_size=world, global_rank=rank, is_global_zero=rank == 0, broadcast=lambda value: ".mark.node"
    )


def hear(monkeypatch, *others):
    """Let each exchange give what one process sends, and then what the others do."""
    monkeypatch.setattr(nodes, "_gathered", lambda fabric, own: [own, *others])


def test_what_all_do_is_given(monkeypatch):
    hear(monkeypatch, "")
    assert together(fabric(0), lambda: 3) == 3
    assert together(fabric(0, world=1), lambda: 4) == 4


def test_a_failure_is_told_by_the_first_that_failed(monkeypatch):
    def fail():
        raise TrainingError("no such folder")

    hear(monkeypatch, "node2, process 1: other")
    with pytest.raises(TrainingError, match="^no such folder$") as own:
        together(fabric(0), fail)
    assert not isinstance(own.value, ToldError)
    with pytest.raises(ToldError, match="node2, process 1: other"):
        together(fabric(0), lambda: None)
    monkeypatch.setattr(nodes, "_gathered", lambda fabric, own: ["node1, process 0: no such folder", own])
    with pytest.raises(ToldError, match="node1, process 0: no such folder"):
        together(fabric(1), fail)


def test_what_all_know_the_first_one_tells():
    with pytest.raises(TrainingError, match="lost") as first:
        refuse(fabric(0), "lost")
    assert not isinstance(first.value, ToldError)
    with pytest.raises(ToldError):
        refuse(fabric(1), "lost")


def test_another_recipe_or_state_is_refused(monkeypatch):
    facts = {"seed": 1, "stages": [{"steps": 2}], "last.pt": "ab"}
    hear(monkeypatch, ("node2", facts))
    agree(fabric(0), facts)
    hear(monkeypatch, ("node2", facts), ("node3", facts | {"seed": 2, "last.pt": "cd"}))
    with pytest.raises(TrainingError, match="node3, process 2, has another seed, last.pt than the first process; give"):
        agree(fabric(0, world=3), facts)


def test_a_folder_that_others_do_not_see(tmp_path, monkeypatch):
    hear(monkeypatch, "")
    same_folder(fabric(0), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    of_the_other = iter(["", "node2", ""])
    monkeypatch.setattr(nodes, "_gathered", lambda fabric, own: [own, next(of_the_other)])
    with pytest.raises(TrainingError, match="run: node2 has another folder there than .*; --run wants one that all"):
        same_folder(fabric(0), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file/run: the run's folder can't be written: Not a directory; --run"):
        same_folder(fabric(0), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "3"}, "a batch of 4 can't be shared by 3 processes; make it a multiple"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "3"}, "3 of 4 processes are on .*; start equally many on each node"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "srun started 2 processes that don't know of one another; let it start torch"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' in the environment is no number of processes"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE='' in the environment is no number of processes"),
    ],
    ids=["batch", "nodes", "srun", "word", "nothing"],
)
def test_processes_that_can_not_train_together(job, monkeypatch, environment, sentence):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=sentence):
        open_fabric(read_recipe(job / "tiny.toml"))


def test_who_may_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert not goes_on(tmp_path, asked=False, again=False), "there is nothing yet"
    nodes.begin_launch(tmp_path)
    (tmp_path / STATE).touch()
    assert goes_on(tmp_path, asked=False, again=True), "a restart of what began it"
    assert goes_on(tmp_path, asked=True, again=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another's")
    with pytest.raises(TrainingError, match="holds a run already; --resume goes on with it, --run names another"):
        goes_on(tmp_path, asked=False, again=True)
    nodes.begin_launch(tmp_path)
    with pytest.raises(TrainingError, match="holds a run already"):
        goes_on(tmp_path, asked=False, again=False)
    with pytest.raises(TrainingError, match="holds a run already"):
        goes_on(tmp_path, asked=False, again=True)  # of what was refused


def test_without_torchrun_no_launch_is_noted(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    nodes.begin_launch(tmp_path)
    assert list(tmp_path.iterdir()) == []
