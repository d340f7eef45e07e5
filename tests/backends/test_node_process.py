"""A call on a cluster's node, as a scheduler's worker runs it; and in a process of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ensemble.backends import node_process
from ensemble.backends.backend import Call, WorkerLost, WorkerStopped
from ensemble.backends.loky_backend import LokyBackend
from ensemble.backends.node_process import VARIABLE, cant_run, packed_call, run_on_node, started_file, stop_all
from ensemble.backends.work_process import Outcome, Worker
from ensemble.jobs.hardware import Hardware
from folds.errors import MaskensError
from folds.files import write_text

NODE = socket.gethostname()
MakeCall = Callable[..., Call]


@pytest.fixture
def call(tmp_path: Path) -> MakeCall:
    def make(function: Callable[..., Any], *args: Any, needs: tuple[Path, ...] = ()) -> Call:
        return Call("a call", function, args, tmp_path / "log.txt", tmp_path, needs)

    return make


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    Worker.end_idle()


def touch_and_sleep(file: Path) -> None:
    file.touch()
    time.sleep(60)


def outcome(call: Call, threads: int = 1) -> Outcome:
    with packed_call(call, threads) as packed:
        return run_on_node(packed)


def result(call: Call) -> Any:
    return outcome(call).result()


def test_no_module_is_of_the_working_folder(call: MakeCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ensemble", "folds", "random", "torch", "joblib", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    assert result(call(os.getpid)) != os.getpid()
    with LokyBackend(Hardware("cpu", 0, jobs=1)) as loky:
        assert loky.call(call(os.getpid)) != os.getpid()


def test_a_process_is_kept_for_the_next_call_of_as_many_threads(call: MakeCall, tmp_path: Path) -> None:
    """Importing torch anew for each job would take seconds."""
    first = result(call(os.getpid))
    assert first != os.getpid()
    assert NODE in (tmp_path / "log.txt").read_text()
    assert list(tmp_path.glob("*.st*")) == [], "nothing is left of it but its log"
    assert result(call(os.getenv, "OMP_NUM_THREADS")) == "1"
    assert result(call(os.getpid)) == first
    assert outcome(call(os.getpid), threads=2).result() != first
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    assert result(call(os.getpid)) != first


def test_what_a_function_raises_is_raised_and_its_traceback_is_in_the_log(call: MakeCall, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        result(call(float, "many"))
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    with pytest.raises(MaskensError, match="can't write"):
        result(call(write_text, tmp_path, "a folder is no file"))


def test_a_process_that_is_killed_is_reported(call: MakeCall) -> None:
    for number in (signal.SIGKILL, signal.SIGSEGV):
        with pytest.raises(WorkerLost, match=rf"worker crashed \({number.name}\) on {NODE}, see .*log.txt"):
            result(call(signal.raise_signal, number))


def test_a_call_is_asked_to_stop_wherever_it_is(call: MakeCall, tmp_path: Path) -> None:
    sleeping = call(touch_and_sleep, tmp_path / "begun")
    found: list[Outcome] = []
    node = threading.Thread(target=lambda: found.append(outcome(sleeping)))
    node.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    stop_all([sleeping])
    node.join()
    with pytest.raises(WorkerStopped):
        found[0].result()
    assert list(tmp_path.glob("*.st*")) == []


HERE = """
import os, sys, threading
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_node_process import Call, Hardware, LokyBackend, outcome, touch_and_sleep
folder = Path(sys.argv[3])
calls = [Call("a call", touch_and_sleep, (folder / name,), folder / f"{name}.txt", folder) for name in ("a", "b")]
threading.Thread(target=outcome, args=(calls[0],)).start()
with LokyBackend(Hardware("cpu", 0)) as loky:
    loky.call(calls[1])
"""


def test_processes_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    """Else they would run on, unseen, beside those of the next command."""
    tests = Path(__file__).parents[1]
    command = subprocess.Popen([sys.executable, "-c", HERE, str(tests), str(tests / "backends"), str(tmp_path)])
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        time.sleep(0.05)
        assert command.poll() is None
    processes = psutil.Process(command.pid).children(recursive=True)
    assert len(processes) >= 2
    command.kill()
    command.wait()
    assert not psutil.wait_procs(processes, timeout=30)[1]


def test_a_scheduler_that_starts_a_call_again_gets_that_it_was_lost(call: MakeCall, tmp_path: Path) -> None:
    """So that attempts are counted in one place."""
    again = call(os.getpid)
    started_file(tmp_path, again.token).touch()
    with pytest.raises(WorkerLost, match="the worker that had it is gone"):
        result(again)


def test_paths_become_those_of_the_node(call: MakeCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "run").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, f"/nowhere/data=/elsewhere{os.pathsep}/nowhere={tmp_path / 'here'}")
    assert result(call(os.listdir, Path("/nowhere"), needs=(Path("/nowhere/run"),))) == ["run"]
    monkeypatch.chdir(tmp_path)
    assert result(call(os.listdir, Path("here"))) == ["run"], "a node's working folder is another"


def test_faults_of_a_node_are_one_message(call: MakeCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = call(os.getpid, needs=(tmp_path, tmp_path / "data"))
    with pytest.raises(MaskensError, match=rf"node {NODE}: missing folders: {tmp_path}/data\. Mount"):
        result(gone)
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, "data:/mnt/data")
        with pytest.raises(MaskensError, match=rf"{VARIABLE} holds 'data', expected /path/of/the/command=/path/on"):
            result(gone)
    with monkeypatch.context() as patch:  # a copy on the node's own disk: the command would wait for results there
        shutil.copytree(tmp_path, tmp_path / "copy")
        patch.setattr(node_process, "LATE", 0.2)
        patch.setenv(VARIABLE, f"{tmp_path}={tmp_path / 'copy'}")
        with pytest.raises(MaskensError, match=rf"node {NODE}: .*/copy is not the command's folder"):
            result(call(os.getpid))
    with monkeypatch.context() as patch:
        patch.setattr(node_process, "library_versions", lambda: {"maskens": "0.0"})
        with packed_call(call(os.getpid), 1) as packed:
            patch.undo()
            with pytest.raises(MaskensError, match=r"has maskens .*, the command that started the job 0\.0"):
                run_on_node(packed).result()
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(MaskensError, match=rf"node {NODE}: .*log.txt: Is a directory"):
        result(call(os.getpid))
    error = RuntimeError("Traceback\n  many lines\nModuleNotFoundError: No module named 'ensemble'\n")
    assert str(cant_run(error)).startswith("a node can't run maskens (ModuleNotFoundError: No module named 'ensemble')")
