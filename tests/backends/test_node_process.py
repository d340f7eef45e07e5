"""A call on a cluster's node, as a scheduler's worker runs it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemble.backends import node_process
from ensemble.backends.backend import Call, WorkerLost, WorkerStopped
from ensemble.backends.loky_backend import LokyBackend
from ensemble.backends.node_process import (
    VARIABLE,
    NodeCall,
    cant_run,
    pack,
    packed_call,
    run_on_node,
    started_file,
    stop_all,
)
from ensemble.backends.work_process import Outcome, WorkerPool
from ensemble.jobs.hardware import Hardware
from folds.errors import MaskensError
from folds.files import write_text


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Call]:
    def make(function: Callable[..., Any], *args: Any, needs: tuple[Path, ...] = ()) -> Call:
        return Call("a call", function, args, tmp_path / "log.txt", tmp_path, needs)

    return make


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    WorkerPool.end()


def touch_and_sleep(file: Path) -> None:
    file.touch()
    time.sleep(60)


def outcome(call: Call, threads: int = 1) -> Outcome:
    with packed_call(call, threads) as packed:
        return run_on_node(packed)


def result(call: Call) -> Any:
    return outcome(call).result()


@pytest.mark.parametrize("backend", ["node", "loky"])
def test_files_in_the_working_folder_are_not_taken_for_modules(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    for name in ("ensemble", "folds", "random", "torch", "joblib", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    if backend == "node":
        assert result(call(os.getpid)) != os.getpid()
    else:
        with LokyBackend(Hardware("cpu", 0, jobs=1)) as loky:
            assert loky.call(call(os.getpid)) != os.getpid()


def test_a_call_runs_in_a_process_of_its_own(call: Callable[..., Call], tmp_path: Path) -> None:
    assert result(call(os.getpid)) != os.getpid()
    assert result(call(os.getenv, "OMP_NUM_THREADS")) == "1"
    assert socket.gethostname() in (tmp_path / "log.txt").read_text()
    assert list(tmp_path.glob("*.st*")) == [], "nothing is left of it but its log"


def test_a_process_is_kept_for_the_next_call_of_as_many_threads(call: Callable[..., Call], tmp_path: Path) -> None:
    """Importing torch anew for each job would take seconds."""
    first = result(call(os.getpid))
    assert result(call(os.getpid)) == first
    assert outcome(call(os.getpid), threads=2).result() != first
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    assert result(call(os.getpid)) != first


def test_what_a_function_raises_is_raised_and_its_traceback_is_in_the_log(
    call: Callable[..., Call], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        result(call(float, "many"))
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    with pytest.raises(MaskensError, match="can't write"):
        result(call(write_text, tmp_path, "a folder is no file"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_is_killed_is_told(call: Callable[..., Call], number: signal.Signals) -> None:
    with pytest.raises(WorkerLost, match=f"was killed by {number.name}; see .*log.txt"):
        result(call(signal.raise_signal, number))


def test_a_call_is_asked_to_stop_wherever_it_is(call: Callable[..., Call], tmp_path: Path) -> None:
    sleeping = call(touch_and_sleep, tmp_path / "begun")
    found: list[Outcome] = []
    node = threading.Thread(target=lambda: found.append(outcome(sleeping)))
    node.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    stop_all([sleeping], 30)
    node.join()
    with pytest.raises(WorkerStopped):
        found[0].result()
    assert list(tmp_path.glob("*.st*")) == []


def test_a_scheduler_that_starts_a_call_again_is_told_that_it_was_lost(
    call: Callable[..., Call], tmp_path: Path
) -> None:
    """So that how often a job goes on is counted in one place."""
    again = call(os.getpid)
    started_file(tmp_path, again.token).touch()
    with pytest.raises(WorkerLost, match="the worker that had it is gone"):
        result(again)


def test_paths_become_those_of_the_node(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "run").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, f"/nowhere/data=/elsewhere{os.pathsep}/nowhere={tmp_path / 'here'}")
    assert result(call(os.listdir, Path("/nowhere"), needs=(Path("/nowhere/run"),))) == ["run"]
    monkeypatch.chdir(tmp_path)
    assert result(call(os.listdir, Path("here"))) == ["run"], "a node's working folder is another"


def test_a_folder_that_is_missing_on_a_node_is_one_message_that_names_both(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = call(os.getpid, needs=(tmp_path, tmp_path / "data"))
    with pytest.raises(MaskensError, match=rf"node {socket.gethostname()}: {tmp_path}/data is not there. Mount it, or"):
        result(gone)
    monkeypatch.setenv(VARIABLE, "data:/mnt/data")
    with pytest.raises(MaskensError, match=rf"{VARIABLE} holds 'data', which is not /path/of/the/command=/path/on"):
        result(gone)


def test_a_folder_that_only_has_the_same_name_is_not_taken_for_the_commands(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy on the node's own disk, say: the command would wait for results that lie there."""
    shutil.copytree(tmp_path, tmp_path / "copy")
    monkeypatch.setattr(node_process, "LATE", 0.2)
    monkeypatch.setenv(VARIABLE, f"{tmp_path}={tmp_path / 'copy'}")
    with pytest.raises(MaskensError, match=rf"node {socket.gethostname()}: .*/copy is there, but it is not the folder"):
        result(call(os.getpid))


def test_what_the_system_refuses_on_a_node_is_told_with_its_name(call: Callable[..., Call], tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(MaskensError, match=rf"node {socket.gethostname()}: .*log.txt: Is a directory"):
        result(call(os.getpid))


def test_a_node_that_can_t_even_begin_is_told_in_a_line() -> None:
    error = RuntimeError("Traceback\n  many lines\nModuleNotFoundError: No module named 'ensemble'\n")
    told = "a node can't run maskens (ModuleNotFoundError: No module named 'ensemble'). Install the same"
    assert str(cant_run(error)).startswith(told)


def test_a_node_with_another_maskens_is_refused(call: Callable[..., Call], tmp_path: Path) -> None:
    node = NodeCall("a call", tmp_path / "log.txt", tmp_path, (), "token", 1, "0.0", pack((os.getpid, ())))
    with pytest.raises(MaskensError, match=r"has maskens .*, the command that started the job 0.0: install the same"):
        run_on_node(pack(dataclasses.replace(node))).result()
