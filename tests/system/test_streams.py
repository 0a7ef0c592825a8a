"""Standard streams, terminals and exit codes of a container, as the caller of `pe` meets them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S

RUN = ("run", "--rm", "--net", "none")
BULK = 50 << 20


class Terminal:
    """The real `pe` on a pty, as under a terminal emulator."""

    def __init__(self, pe: Pe, *args: str, rows: int = 24, columns: int = 80) -> None:
        self.text = ""
        self.code: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            command = pe.command(*args)
            os.execve(command[0], command, pe.environ)
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        """Change the window, as dragging its corner does; the kernel sends SIGWINCH."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.fd, keys.encode())

    def expect(self, pattern: str) -> None:
        """Read until a pattern appears, and forget what came before its end."""
        assert self.shows(pattern, seconds=PATIENCE_S), f"no {pattern!r} in {self.text!r}"

    def shows(self, pattern: str, *, seconds: float) -> bool:
        """As `expect`, but tell whether it came."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            if not self._read(deadline):
                return False
        self.text = self.text[found.end() :]
        return True

    def _read(self, deadline: float) -> bool:
        if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody holds the slave any more
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def wait(self, *, seconds: float = PATIENCE_S) -> int:
        """Return the exit code, reading on meanwhile."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def close(self) -> None:
        """End what is left."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Keep terminals here; they are closed at the end."""
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


# --- pipes -------------------------------------------------------------------------------------------------


def test_stdin_is_piped_into_the_command(pe: Pe) -> None:
    done = pe(*RUN, "-i", "host:base", "tr", "a-z", "A-Z", input="hi there\n", check=True)
    assert done.stdout == "HI THERE\n"


def test_without_interactive_the_command_reads_end_of_file(pe: Pe) -> None:
    assert pe(*RUN, "host:base", "cat", input="unheard\n", check=True).stdout == ""


def test_stdout_and_stderr_stay_apart(pe: Pe) -> None:
    done = pe(*RUN, "host:base", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_fifty_megabytes_of_any_bytes_pass_both_ways_unchanged(pe: Pe) -> None:
    data = os.urandom(1 << 20) * (BULK >> 20)
    done = subprocess.run(
        pe.command(*RUN, "-i", "host:base", "cat"), env=pe.environ, input=data, capture_output=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_what_a_killed_process_wrote_before_is_delivered(pe: Pe) -> None:
    done = pe(*RUN, "--init", "host:base", "sh", "-c", "seq 1 20000; kill -KILL $$")
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 20001))


def test_the_output_of_processes_that_outlive_the_command_ends_with_it(pe: Pe) -> None:
    done = pe(*RUN, "host:base", "sh", "-c", "sleep 1000 & echo done")
    assert (done.stdout, done.returncode) == ("done\n", 0)


def test_a_reader_that_goes_away_ends_pe_without_a_complaint(pe: Pe) -> None:
    # What the command still writes goes to its log: the container lives on, as docker's does.
    line = " ".join(pe.command(*RUN, "host:base", "seq", "1", "50000"))
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -1; exit ${{PIPESTATUS[0]}}"],
        env=pe.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == "1\n"
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_command_whose_reader_went_away_is_not_kept_waiting(pe: Pe, start: Start) -> None:
    name = start("--net", "none", "host:base", "sh", "-c", "sleep 0.3; seq 1 200000; echo end")
    viewer = pe.popen("attach", name, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert viewer.stdout is not None
    viewer.stdout.readline()
    viewer.stdout.close()
    viewer.kill()
    viewer.wait()
    assert pe("wait", name, check=True, timeout=PATIENCE_S).stdout == "0\n"
    assert pe("logs", "--tail", "1", name).stdout == "end\n"


def test_a_caller_that_does_not_read_holds_the_command_back(pe: Pe) -> None:
    """Flow control: a monitor that took everything would need memory without limit."""
    caller = pe.popen(*RUN, "--name", "flood", "host:base", "yes", stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        state = eventually(lambda: _state_if_running(pe, "flood"))
        monitor = Path(f"/proc/{state['MonitorPid']}")
        time.sleep(1.0)
        resident_kb = int(re.findall(r"VmRSS:\s+(\d+) kB", (monitor / "status").read_text())[0])
        assert resident_kb < 64 << 10
    finally:
        pe("kill", "flood")
        caller.communicate()


def _state_if_running(pe: Pe, name: str) -> dict[str, object]:
    done = pe("inspect", name)
    state: dict[str, object] = json.loads(done.stdout)[0]["State"] if done.returncode == 0 else {}
    return state if state.get("Running") else {}


def test_stdin_stays_open_for_a_detached_interactive_container(pe: Pe, start: Start) -> None:
    name = start("-i", "--net", "none", "host:base", "sh", "-c", "read line; echo got $line")
    done = pe("attach", name, input="something\n", timeout=PATIENCE_S)
    assert done.stdout == "got something\n"


@pytest.mark.parametrize("user", ["0", "65534"])
def test_with_init_the_first_process_has_the_streams_of_the_container(pe: Pe, start: Start, user: str) -> None:
    """Jobs write to /proc/1/fd/1 to be seen in the log."""
    name = start("--net", "none", "--init", "-u", user, "host:base", "sleep", "1000")
    eventually(lambda: pe("exec", name, "cat", "/proc/1/comm").stdout == "init\n")
    pe("exec", name, "sh", "-c", "echo out >/proc/1/fd/1; echo err >/proc/1/fd/2", check=True)
    assert eventually(lambda: pe("logs", name, check=True).stdout) == "out\n"
    assert pe("logs", name, check=True).stderr == "err\n"


# --- exit codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)],
)
def test_the_exit_code_is_the_commands_own(pe: Pe, script: str, code: int) -> None:
    # The first process of a pid namespace is not ended by signals from inside; see pid_namespaces(7). So --init.
    assert pe(*RUN, "--init", "host:base", "bash", "-c", script).returncode == code


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("host:base", "no-such-command"), 127),
        (("host:base", "/no/such/path"), 127),
        (("host:base", "/etc/passwd"), 126),
        (("host:base", "/etc"), 126),
        (("no-such-image", "true"), 125),
        (("--net", "no-such-driver", "host:base", "true"), 125),
    ],
)
def test_a_command_that_cannot_start_says_what_and_why(pe: Pe, words: tuple[str, ...], code: int) -> None:
    done = pe(*RUN, *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("pe: ")
    assert any(word.lstrip("/") in done.stderr for word in words if word != "true")


def test_signals_to_pe_reach_the_command(pe: Pe) -> None:
    script = "trap 'echo term; exit 3' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done"
    with pe.popen(*RUN, "host:base", "sh", "-c", script, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        caller.send_signal(signal.SIGUSR1)
        assert caller.stdout.readline() == "usr1\n"
        caller.send_signal(signal.SIGTERM)
        assert caller.stdout.readline() == "term\n"
        assert caller.wait(timeout=PATIENCE_S) == 3


# --- terminals ---------------------------------------------------------------------------------------------


def test_a_shell_on_a_terminal_prompts_echoes_and_returns_its_code(pe: Pe, terminals: list[Terminal]) -> None:
    terminal = Terminal(pe, *RUN, "-it", "-e", "PS1=ready> ", "host:base", "sh")
    terminals.append(terminal)
    terminal.expect("ready> ")
    terminal.type("tty; test -t 0 -a -t 1 -a -t 2 && echo is-a-terminal\r")
    terminal.expect(r"\n/dev/pts/0\r\n")
    terminal.expect("is-a-terminal\r\n")
    terminal.type("exit 5\r")
    assert terminal.wait() == 5


def test_the_terminal_has_the_callers_size_and_follows_it(pe: Pe, terminals: list[Terminal]) -> None:
    terminal = Terminal(pe, *RUN, "-it", "-e", "PS1=ready> ", "host:base", "sh", rows=31, columns=97)
    terminals.append(terminal)
    terminal.expect("ready> ")
    terminal.type("stty size\r")
    terminal.expect(r"\n31 97\r\nready> ")
    terminal.type("trap 'echo resized to $(stty size)' WINCH; echo set\r")
    terminal.expect(r"\nset\r\n")
    terminal.resize(50, 132)

    def told() -> bool:
        terminal.type("\r")  # a shell at its prompt runs the trap after the next line
        return terminal.shows("resized to 50 132", seconds=0.2)

    eventually(told)
    terminal.type("exit\r")
    assert terminal.wait() == 0


def test_ctrl_c_interrupts_the_command_inside_not_pe(pe: Pe, terminals: list[Terminal]) -> None:
    variables = ("-e", "PS1=ready> ", "-e", "TERM=dumb")
    terminal = Terminal(pe, *RUN, "-it", "--name", "ctrl-c", *variables, "host:base", "bash", "--norc")
    terminals.append(terminal)
    terminal.expect("ready> ")
    terminal.type("sleep 1000\r")
    terminal.expect("sleep 1000\r\n")
    eventually(lambda: "sleep 1000" in pe("top", "ctrl-c").stdout)  # it has the terminal by then
    terminal.type("\x03")
    terminal.expect("ready> ")
    terminal.type("echo code $?\r")
    terminal.expect(r"\ncode 130")
    terminal.type("\x04")  # Ctrl-D ends the shell
    assert terminal.wait() == 0


def test_the_detach_keys_leave_and_attach_comes_back(pe: Pe, terminals: list[Terminal]) -> None:
    first = Terminal(pe, "run", "-it", "--name", "leave", "--net", "none", "-e", "PS1=ready> ", "host:base", "sh")
    terminals.append(first)
    try:
        first.expect("ready> ")
        first.type("variable=kept\r")
        first.expect("ready> ")
        first.type("\x10\x11")  # Ctrl-P Ctrl-Q
        assert first.wait() == 0
        second = Terminal(pe, "attach", "leave")
        terminals.append(second)
        second.type("echo $variable\r")
        second.expect(r"\nkept\r\n")
        second.type("exit 9\r")
        assert second.wait() == 9
    finally:
        pe("rm", "-f", "leave")


def test_detach_keys_can_be_chosen(pe: Pe, terminals: list[Terminal]) -> None:
    words = ("run", "-it", "--detach-keys", "ctrl-x,d", "--name", "keys", "--net", "none", "host:base", "cat")
    terminal = Terminal(pe, *words)
    terminals.append(terminal)
    try:
        terminal.type("a\x10b\r")  # the default keys are ordinary input now
        terminal.expect(r"a\^Pb\r\na\x10b\r\n")
        terminal.type("\x18d")
        assert terminal.wait() == 0
        assert _state_if_running(pe, "keys")
    finally:
        pe("rm", "-f", "keys")


def test_the_callers_terminal_is_put_back_as_it_was(pe: Pe, terminals: list[Terminal]) -> None:
    terminal = Terminal(pe, *RUN, "-it", "host:base", "sh", "-c", "echo up; cat")
    terminals.append(terminal)
    terminal.expect("up\r\n")
    raw = termios.tcgetattr(terminal.fd)
    assert not raw[3] & termios.ICANON
    terminal.type("\x04")
    assert terminal.wait() == 0
    restored = termios.tcgetattr(terminal.fd)
    assert restored[3] & termios.ICANON
    assert restored[3] & termios.ECHO


def test_a_terminal_asked_for_without_one_is_refused(pe: Pe) -> None:
    done = pe(*RUN, "-it", "host:base", "true")
    assert done.returncode != 0
    assert "terminal" in done.stderr or "tty" in done.stderr.lower()


def test_output_on_a_terminal_without_input_is_one_stream(pe: Pe) -> None:
    line = pe.command(*RUN, "-t", "host:base", "sh", "-c", "echo out; echo err >&2; test -t 1 && echo terminal")
    done = subprocess.run(line, env=pe.environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    assert done.stdout == b"out\r\nerr\r\nterminal\r\n"
    assert done.stderr == b""
