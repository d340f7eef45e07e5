"""SIGTERM and SIGHUP stop a command as Ctrl-C does, wherever they arrive, and end the processes that it has forked."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import pytest
from run_command import maskens, python, refused, started

import cli
from ensemble.jobs.stopping import SIGNALS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")

FORK_AND_STOP = """
import os, signal, time
import cli

def fork_and_stop(**_):
    child = os.fork()
    if child == 0:
        try:
            time.sleep(60)
        except BaseException:  # a loader process that goes on after an exception
            time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

def interrupted(**options):
    try:
        fork_and_stop()
    except KeyboardInterrupt:
        return 130
    return 0

cli.app = interrupted
cli.main()
"""


def test_a_command_leaves_the_callers_handler_as_it_was() -> None:
    before = [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)]
    maskens("recipes")
    assert [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)] == before


SWALLOWED = {
    ("SIGTERM", "__del__ at import"): """
class Late:
    def __del__(self):
        os.kill(os.getpid(), NUMBER)
Late()
time.sleep(1)  # it waits for the import
def work():
    while time.monotonic() < until: time.sleep(.01)
""",
    ("SIGHUP", "a weak reference's callback"): """
def work():
    class Target: pass
    target = Target()
    reference = weakref.ref(target, lambda _: os.kill(os.getpid(), NUMBER))
    del target
    while time.monotonic() < until: time.sleep(.01)
""",
    ("SIGTERM", "a bare except"): """
def work():
    try: os.kill(os.getpid(), NUMBER); time.sleep(5)
    except BaseException: pass
    while time.monotonic() < until: time.sleep(.01)
""",
    ("SIGHUP", "an import that fails for it"): """
os.kill(os.getpid(), NUMBER)
time.sleep(.3)
os.kill(os.getpid(), NUMBER)  # the second one does not wait for the import
""",
    ("SIGINT", "work that is saved first"): """
def work():
    try: os.kill(os.getpid(), NUMBER); time.sleep(5)
    except BaseException: pass
    with stop_requests() as stop:
        while not stop.made and time.monotonic() < until: time.sleep(.01)
        time.sleep(.5)  # saving
        print("saved", flush=True)
""",
}


@pytest.mark.parametrize(("way", "code"), SWALLOWED.items(), ids=map(" ".join, SWALLOWED))
def test_a_signal_stops_a_command_wherever_it_arrives(tmp_path: Path, way: tuple[str, str], code: str) -> None:
    name, _ = way
    head = "import os, signal, time, weakref\nfrom ensemble.jobs.stopping import stop_requests\n"
    head += "until = time.monotonic() + 20\n"
    (tmp_path / "swallowing.py").write_text(head + code.replace("NUMBER", f"signal.{name}"))
    (tmp_path / "start.py").write_text(
        "import cli\n"
        "def command(**_):\n"
        "    import swallowing\n"
        "    swallowing.work()\n"
        "    return 0\n"
        "cli.app = command\n"
        "cli.main()\n"
    )
    number = signal.Signals[name]
    begun = time.monotonic()
    ended = python(tmp_path / "start.py", modules=str(tmp_path))
    assert ended.returncode == 128 + number, ended.stderr
    assert time.monotonic() < begun + 20
    assert ended.stderr.startswith("error: stopped. "), ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ("saved" in ended.stdout) == ("saved" in code)


def test_a_forked_process_ends_at_once_and_the_command_itself_is_interrupted() -> None:
    """In a process of its own, as some libraries that other tests load do not outlive a fork."""
    ended = python("-c", FORK_AND_STOP)
    assert ended.stdout.split() == [str(128 + signal.SIGTERM)], ended.stderr
    assert ended.returncode == 128 + signal.SIGTERM


ASK = """
import cli
from ensemble.commands.terminal import Terminal

cli.app = lambda **_: cli.passing(lambda: Terminal().confirm(lambda: "it would take 3 days", "timing"))()
cli.main()
"""


@pytest.mark.parametrize(
    ("key", "code", "words"), [(b"\x03", 130, b"stopped."), (b"\x04", 2, b"--yes")], ids=["c", "d"]
)
def test_ctrl_c_and_ctrl_d_at_a_question_are_one_line(tmp_path: Path, key: bytes, code: int, words: bytes) -> None:
    import pty

    (tmp_path / "ask.py").write_text(ASK)
    child, terminal = pty.fork()
    if child == 0:
        environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent)}
        os.execve(sys.executable, [sys.executable, str(tmp_path / "ask.py")], environment)
    shown = b""
    with contextlib.suppress(OSError):  # EIO at its end
        while select.select([terminal], [], [], 60)[0] and (part := os.read(terminal, 4096)):
            shown += part
            if b"[y/N]: " in shown and key:
                time.sleep(0.3)  # it comes to read
                os.write(terminal, key)
                key = b""
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code, shown
    _, answer = shown.split(b"[y/N]: ")
    lines = [line for line in answer.splitlines() if line.strip(b"^CD\b \r")]
    assert len(lines) == 1, shown
    assert words in lines[0]


def ended(*words: str, stdout: int | IO[str]) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout is given."""
    process = started(*words, stdout=stdout, stderr=subprocess.PIPE)
    err = process.communicate(timeout=60)[1]
    return process.returncode, err


def test_a_reader_that_has_seen_enough_ends_a_command_in_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert ended("recipes", stdout=writing) == (128 + signal.SIGPIPE, "")
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_behind_stdout_is_one_message() -> None:
    with Path("/dev/full").open("w") as full:
        code, err = ended("recipes", stdout=full)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "No space left on device" in err


@pytest.mark.parametrize("fault", [ZeroDivisionError("0"), OSError("a library's"), ConnectionResetError(104, "reset")])
def test_a_fault_of_ours_keeps_its_traceback(fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise fault

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "app", lambda **_: cli.passing(fail)())
    outcome = maskens("score")
    (log,) = tmp_path.glob("maskens-*.log")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: internal error ({type(fault).__name__}: {fault}). Its traceback: {log}")
    assert "test_signals.py" in log.read_text()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "a/b.csv"), "the system refused: a/b.csv: Permission denied"),
        (OSError(28, "No space left on device"), "the system refused: No space left on device"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "not enough memory"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_the_system_refuses_is_one_message(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", lambda **_: cli.passing(fail)())
    refused(maskens("score"), words)


def test_a_memory_limit_under_which_nothing_starts_is_one_message() -> None:
    import resource

    process = started(
        "folds",
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000)),
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("error: the memory limit of 600 MB")
    assert len(err.splitlines()) == 1
