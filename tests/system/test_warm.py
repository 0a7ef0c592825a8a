"""A command in a process forked from a prepared one cannot be told from one in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import plugengine
from tests.conftest import Pe, need_tool
from tests.system.conftest import Leftovers, eventually
from tests.system.kills import COLD, children, kill, process_named
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")
# Ids and names are invented anew each time.
INVENTED = re.compile(r"\b[0-9a-f]{12,64}\b|\b[a-z]+_[a-z]+\b")


# Sends a signal to `pe` as soon as its container is ready, and shows what that wrote.
SIGNALLED = (
    "(until grep -qs ready out; do sleep .05; done; kill -s {signal} $(cat pid)) & "
    "sh -c 'echo $$ >pid; exec \"$@\"' - pe run --rm --net none host:base sh -c '{script}' >out; "
    "code=$?; cat out; exit $code"
)
TRAPS = 'for s in TERM HUP INT; do trap "echo $s; exit 3" $s; done; echo ready; while :; do sleep .1; done'


@pytest.fixture
def own(pe: Pe, tmp_path: Path) -> Iterator[Pe]:
    """An engine with a prepared process of its own and an image."""
    own = Pe(tmp_path / "root", tmp_path / "run")
    own("run", "--rm", *NONE, "host:base", "true", check=True)
    prepared(own)
    yield own
    own("system", "reset", "--force", check=True)
    for pid in process_named(own, "pe-warm"):
        kill(pid)
    eventually(lambda: not Leftovers(own).now()["processes"])


def prepared(pe: Pe) -> int:
    """Return the pid of the prepared process, once it answers."""
    pe("ps", "-q", check=True)
    return eventually(lambda: oldest(pe)) or 0


def oldest(pe: Pe) -> int | None:
    """Return the prepared process, not one of those forked from it; None when there is none."""
    found = process_named(pe, "pe-warm")
    return next((pid for pid in found if parent(pid) not in found), None)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def both(pe: Pe, script: str, directory: Path) -> tuple[tuple[int, str, str], tuple[int, str, str]]:
    """Run a shell script, in which `pe` is the real one, cold and warm; return code, output and errors of each."""
    prepared(pe)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    found = []
    for more in (COLD, {}):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        done = subprocess.run(
            ["bash", "-c", script],
            env={**pe.environ, "PATH": path, "GIVEN": "from outside", **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=directory,
        )
        texts = [INVENTED.sub("X", text.decode(errors="backslashreplace")) for text in (done.stdout, done.stderr)]
        found.append((done.returncode, texts[0], texts[1]))
    return found[0], found[1]


@pytest.mark.parametrize(
    "script",
    [
        "pe run --rm --net none host:base sh -c 'echo out; echo err >&2; exit 7'",
        "pe run --rm --net none host:base no-such-command",
        "pe run --rm --net none host:base sh -c 'kill -9 $$'",
        "pe run --rm --net none -e GIVEN -e NOT_GIVEN host:base env | sort",
        "GIVEN= pe run --rm --net none -e GIVEN host:base env | sort",
        "printf 'a\\0b\\377c' | pe run --rm --net none -i host:base od -c",
        "pe run --rm --net none -i host:base cat </etc/passwd | cksum",
        "mkdir data; echo x > data/file; pe run --rm --net none -v ./data:/data host:base cat /data/file",
        "cd /; pe run --rm --net none -v ./etc:/data:ro host:base sh -c 'ls /data | head -3'",
        "echo A=1 > list; pe run --rm --net none --env-file list host:base sh -c 'echo $A'",
        "umask 077; pe create --net none --cidfile id host:base true >/dev/null; stat -c %a id; pe rm $(cat id) >&2",
        "umask 0; pe run --rm --net none host:base sh -c umask",
        "ulimit -n 333; pe run --rm --net none host:base sh -c 'ulimit -n'",
        "nice -n 5 pe run --rm --net none host:base nice",
        "pe run --rm --net none host:base echo 'words  with   spaces' '' '*' '$HOME' $'new\\nline'",
        "pe run --rm --net none host:base echo $'\\377'",
        "pe run --rm --net none host:base seq 100000 | head -1",
        "pe run --rm --net none -t host:base sh -c 'test -t 1 && echo terminal'",
        "pe drivers",
        "pe --version",
        "pe --help",
        "pe run --help",
        "pe",
        "pe no-such-command",
        "pe run --no-such-option",
        "pe ps -a",
        "pe images >/dev/full",
        "pe ps >&-",
        "pe ps 2>&-",
        "pe run --rm --net none -i host:base cat <&-",
        "pe inspect nobody",
        "pe --root /proc/none ps",
        "pe --debug inspect nobody 2>&1 | tail -1",
        "mkdir gone; cd gone; rmdir ../gone; pe run --rm --net none host:base echo well",
        SIGNALLED.format(signal="TERM", script=TRAPS),
        SIGNALLED.format(signal="HUP", script=TRAPS),
        SIGNALLED.format(signal="INT", script=TRAPS),
        "trap '' INT; " + SIGNALLED.format(signal="INT", script="echo ready; sleep 1; echo on"),
    ],
)
def test_output_errors_and_code_are_the_same_cold_and_warm(pe: Pe, tmp_path: Path, script: str) -> None:
    cold, warm = both(pe, script, tmp_path / "work")
    assert warm == cold


def test_a_terminal_is_the_callers_own(pe: Pe, tmp_path: Path) -> None:
    need_tool("script")
    inner = "pe run --rm --net none -it host:base sh -c 'test -t 0 && echo terminal; exit 3'"
    # script(1) passes the end of its own input on, as a character that comes sooner or later.
    cold, warm = both(pe, f'set -o pipefail; script -qec "{inner}" /dev/null | tr -d "^@\\000"', tmp_path / "work")
    assert warm == cold
    assert warm[:2] == (3, "terminal\r\n")


def test_a_client_that_is_killed_takes_its_command_along(own: Pe) -> None:
    name = own("run", "-d", *NONE, "host:base", "sleep", "1000", check=True).stdout.strip()
    server = prepared(own)
    watching = subprocess.Popen(own.command("logs", "-f", name), env=own.environ, stdout=subprocess.DEVNULL)
    command = eventually(lambda: commands(server)).pop()
    watching.kill()
    watching.wait()
    eventually(lambda: not Path(f"/proc/{command}").exists())
    assert own("exec", name, "echo", "well", check=True).stdout == "well\n", "the container is nobody's command"


def commands(server: int) -> list[int]:
    return [pid for pid in children(server) if Path(f"/proc/{pid}/comm").read_text().strip() == "pe-warm"]


def test_a_command_that_is_stopped_and_goes_on_is_not_lost(own: Pe) -> None:
    process = subprocess.Popen(
        own.command("run", "--rm", *NONE, "host:base", "sh", "-c", "sleep 0.5; echo well; exit 3"),
        env=own.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=PATIENCE_S)[0] == "well\n"
    assert process.returncode == 3


def test_a_caller_stopped_in_the_middle_of_its_request_does_not_stop_the_others(own: Pe) -> None:
    prepared(own)
    address = next(own.run_root.glob("warm-*[0-9a-f]"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(address))
        assert own("run", "--rm", *NONE, "host:base", "echo", "well", check=True).stdout == "well\n"
        with contextlib.suppress(BrokenPipeError):
            silent.send(b"nonsense\0" * 10)
    prepared(own)


def test_an_edited_source_file_is_not_served_by_an_old_process(own: Pe, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(Path(plugengine.__path__[0]), copy / "plugengine", ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**own.environ, "PYTHONPATH": str(copy)}

    def version() -> str:
        return subprocess.run(own.command("--version"), env=environ, capture_output=True, text=True, check=True).stdout

    def server() -> int | None:
        subprocess.run(own.command("ps"), env=environ, capture_output=True, check=True)
        return oldest_of(own, {first})

    first = prepared(own)
    assert version().startswith("pe ")
    second = eventually(server)
    assert second != first
    assert version().startswith("pe "), "the answer of the second one, which has imported everything by now"
    program = copy / "plugengine/cli/program.py"
    program.write_text(program.read_text().replace('f"pe {version', 'f"PE {version'))
    os.utime(program, (time.time() + 5, time.time() + 5))
    assert version().startswith("PE ")
    third = eventually(lambda: found if (found := server()) not in (None, second) else None)
    assert third != first
    assert version().startswith("PE ")
    kill(third or 0)


def oldest_of(pe: Pe, without: set[int]) -> int | None:
    found = [pid for pid in process_named(pe, "pe-warm") if pid not in without]
    return next((pid for pid in found if parent(pid) not in found and parent(pid) not in without), None)


def test_a_module_in_the_callers_directory_is_not_imported(own: Pe, tmp_path: Path) -> None:
    for pid in process_named(own, "pe-warm"):
        kill(pid)
    (tmp_path / "select.py").write_text("import os; os.system('touch /tmp/pe-owned')\n")
    shutil.copy(tmp_path / "select.py", tmp_path / "plugengine.py")
    subprocess.run(own.command("ps"), env=own.environ, cwd=tmp_path, capture_output=True, check=True)
    eventually(lambda: oldest(own))
    own("run", "--rm", *NONE, "host:base", "true", check=True)
    owned = Path("/tmp/pe-owned").exists()
    Path("/tmp/pe-owned").unlink(missing_ok=True)
    assert not owned


def test_a_caller_in_another_mount_namespace_sees_its_own_files(own: Pe, tmp_path: Path) -> None:
    prepared(own)
    (tmp_path / "data").mkdir()
    words = own.command("run", "--rm", *NONE, "-v", f"{tmp_path}/data:/data", "host:base", "cat", "/data/file")
    script = 'mount -t tmpfs tmpfs "$0/data"; echo mine > "$0/data/file"; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path), *words],
        env=own.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")


def test_a_caller_that_is_not_root_is_not_served_by_roots_process(own: Pe) -> None:
    prepared(own)
    need_tool("setpriv")
    # Another user who may read everything: the checkout may lie where others cannot look.
    may_read = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *may_read, "--", *own.command("ps")]
    done = subprocess.run(words, env=own.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "needs root" in done.stderr


def test_nothing_is_left_behind_when_it_is_turned_off(pe: Pe, tmp_path: Path) -> None:
    cold = Pe(tmp_path / "root", tmp_path / "run")
    done = subprocess.run(cold.command("ps"), env={**cold.environ, **COLD}, capture_output=True, check=False)
    assert done.returncode == 0
    time.sleep(0.3)
    assert not process_named(cold, "pe-warm")
    assert not list((tmp_path / "run").glob("warm-*"))


def test_it_ends_by_itself_when_nobody_asks(pe: Pe, tmp_path: Path) -> None:
    idle = Pe(tmp_path / "root", tmp_path / "run")
    words = {"env": {**idle.environ, "PLUGENGINE_WARM": "3"}, "capture_output": True, "check": True}
    subprocess.run(idle.command("ps"), **words)  # type: ignore[call-overload]
    eventually(lambda: list((tmp_path / "run").glob("warm-*[0-9a-f]")))
    eventually(lambda: not process_named(idle, "pe-warm"))
    assert not list((tmp_path / "run").glob("warm-*"))


def test_it_ends_when_its_run_root_is_gone(pe: Pe, tmp_path: Path) -> None:
    gone = Pe(tmp_path / "root", tmp_path / "run")
    prepared(gone)
    shutil.rmtree(tmp_path / "run")
    eventually(lambda: not process_named(gone, "pe-warm"))


def test_it_is_small_and_keeps_no_descriptor_of_its_callers(own: Pe) -> None:
    server = prepared(own)
    before = len(os.listdir(f"/proc/{server}/fd"))
    for _ in range(5):
        own("run", "--rm", *NONE, "host:base", "true", check=True)
    own("no-such-command")
    eventually(lambda: len(os.listdir(f"/proc/{server}/fd")) <= before)
    assert oldest(own) == server
