"""Runtime cases: what is made and when, what is said of it, and how it goes."""

from __future__ import annotations

import os
import signal
import time

from plugengine.bundle import RuntimeState, RuntimeStatus
from plugengine.errors import CommandNotFoundError, ConflictError, NotExecutableError, PlugengineError
from plugengine.model import GuestPath, HostPath, decode, encode
from plugengine.testing.cases import case, expect, expect_equal, fail, soon
from plugengine.testing.children import in_child
from plugengine.testing.runtime.subject import HOSTNAME, Subject, gone, succeeded

_WHILE_S = 0.2  # long enough for a command that was not held to have run
_STOPPED = RuntimeState(status=RuntimeStatus.STOPPED)


@case("runtime.probe.pure")
def probing_is_pure(subject: Subject) -> None:
    """Asking whether the driver can run here changes nothing, and the answer stays the same."""
    before = sorted(os.listdir(subject.scratch))
    for _ in range(2):
        expect_equal(subject.driver.probe(subject.host), (), "reasons why this host cannot run the driver")
    expect_equal(sorted(os.listdir(subject.scratch)), before, "files after probing")


@case("runtime.create.held")
def the_first_process_is_held(subject: Subject) -> None:
    """Nothing of the command runs before start; then it does."""
    container = subject.container("/bin/sh", "-c", "echo ran")
    container.create()
    time.sleep(_WHILE_S)
    expect_equal(container.output(), "", "output of a container that is held")
    expect(os.path.exists(f"/proc/{container.pid}"), "the process is gone while it is held")
    container.start()
    expect_equal(succeeded(container.outcome()), "ran\n", "output of the command")


@case("runtime.create.network-namespace")
def the_network_namespace_is_there_while_it_is_held(subject: Subject) -> None:
    """The held process is in its own network namespace: that is where networks are connected before it starts."""
    container = subject.container("cat", "/proc/net/dev")
    container.create()
    found = os.readlink(f"/proc/{container.pid}/ns/net")
    expect(found != os.readlink("/proc/self/ns/net"), "the held process is in the network namespace of the host")
    container.start()
    interfaces = [line.split(":")[0].strip() for line in succeeded(container.outcome()).splitlines()[2:]]
    expect_equal(interfaces, ["lo"], "interfaces of a container that is connected to nothing")


@case("runtime.create.several")
def several_are_held_at_once(subject: Subject) -> None:
    """Several containers are held at once, and each start lets its own go."""
    containers = [subject.container("/bin/sh", "-c", f"echo {number}") for number in range(3)]
    for each in containers:
        each.create()
    for number in (2, 0, 1):
        containers[number].start()
        expect_equal(succeeded(containers[number].outcome()), f"{number}\n", "output of the container that was started")


@case("runtime.create.files")
def files_written_while_it_is_held_are_seen(subject: Subject) -> None:
    """A file bound into the container gets its content after create and before start, as /etc/hosts does."""
    path = HostPath(f"{subject.scratch}/hosts")
    open(path, "w", encoding="ascii").close()
    container = subject.container("cat", "/etc/hosts", etc_files={GuestPath("/etc/hosts"): path})
    container.create()
    with open(path, "w", encoding="ascii") as stream:
        stream.write("late\n")
    container.start()
    expect_equal(succeeded(container.outcome()), "late\n", "content of the file in the container")


@case("runtime.start.exit-code")
def the_exit_code_is_the_commands(subject: Subject) -> None:
    """The caller reaps the first process, and gets the exit code or the signal of the command."""
    expect_equal(subject.sh("exit 7").code, 7, "exit code")
    container = subject.start("sleep", "100")
    os.kill(container.pid, signal.SIGKILL)
    expect_equal(container.wait(), -signal.SIGKILL, "how the first process ended after SIGKILL")


@case("runtime.start.missing-command")
def a_command_that_is_missing_is_said_to_be(subject: Subject) -> None:
    """A command that does not exist raises CommandNotFoundError, from create or start, and leaves no process."""
    for command in ("no-such-command", "/no/such/command"):
        _expect_refused(subject, command, CommandNotFoundError)


@case("runtime.start.not-executable")
def a_file_that_cannot_be_run_is_said_to_be(subject: Subject) -> None:
    """A file that is not executable raises NotExecutableError, from create or start, and leaves no process."""
    _expect_refused(subject, "/etc/passwd", NotExecutableError)


def _expect_refused(subject: Subject, command: str, wanted: type[PlugengineError]) -> None:
    container = subject.container(command)
    try:
        container.create()
        container.start()
    except wanted:
        pass
    except PlugengineError as exc:
        fail(f"{command}: raised {type(exc).__name__}, not {wanted.__name__}: {exc.message}")
    else:
        fail(f"{command}: was started")
    if container.pid:
        expect(gone(container.pid), f"{command}: process {container.pid} is left after it could not be run")
        container.wait()
    container.driver.delete(container.request, container.record or None)


@case("runtime.state.follows")
def the_state_follows_the_process(subject: Subject) -> None:
    """The state is created while it is held, running with its pid, and stopped when it has ended, reaped or not."""
    container = subject.container("sleep", "100")
    container.create()
    state = subject.driver.state
    held = state(container.request, container.record)
    expect_equal(held, RuntimeState(status=RuntimeStatus.CREATED, pid=container.pid), "state while it is held")
    container.start()
    running = state(container.request, container.record)
    expect_equal(running, RuntimeState(status=RuntimeStatus.RUNNING, pid=container.pid), "state while it runs")
    container.kill()
    expect(soon(lambda: state(container.request, container.record) == _STOPPED), "the state after its end: not stopped")
    container.wait()
    expect_equal(state(container.request, container.record), _STOPPED, "state after it was reaped")


@case("runtime.kill.signal")
def signals_reach_the_first_process(subject: Subject) -> None:
    """A signal reaches the command, which may handle it."""
    script = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    container = subject.start("/bin/sh", "-c", script)
    expect(soon(lambda: container.output() == "ready\n"), "the command did not get ready")
    container.kill(signal.SIGUSR1)
    outcome = container.outcome()
    expect_equal((outcome.code, outcome.stdout), (5, "ready\ngot\n"), "exit code and output of the command")


@case("runtime.kill.ended")
def killing_what_has_ended_is_a_conflict(subject: Subject) -> None:
    """A signal for a process that has ended and was reaped raises ConflictError, and nobody else gets it."""
    container = subject.start("true")
    container.wait()
    try:
        container.kill(signal.SIGTERM)
    except ConflictError:
        return
    fail("a signal was sent to a process that has ended")


@case("runtime.record.elsewhere")
def the_record_is_enough_for_other_processes(subject: Subject) -> None:
    """With the record as it comes back from JSON, another process sees the state, sends signals and deletes."""
    container = subject.start("sleep", "100")
    record = decode(dict, encode(container.record))

    def elsewhere() -> str:
        found = subject.driver.state(container.request, record)
        subject.driver.kill(container.request, record, signal.SIGKILL)
        return found.status.value

    expect_equal(in_child(elsewhere), "running", "state, asked from another process")
    expect_equal(container.wait(), -signal.SIGKILL, "how it ended")
    in_child(lambda: subject.driver.delete(container.request, record))
    expect_equal(subject.driver.state(container.request, record), _STOPPED, "state after it was deleted elsewhere")


@case("runtime.exec.inside")
def exec_is_inside(subject: Subject) -> None:
    """A process of exec is in every namespace and in the root of the container, and its exit code is its own."""
    container = subject.start("sleep", "100")
    names = ("pid", "net", "mnt", "uts", "ipc", "cgroup", "user")
    script = "for each in " + " ".join(names) + "; do readlink /proc/self/ns/$each; done; hostname; ls /; exit 4"
    done = container.exec("/bin/sh", "-c", script)
    lines = done.stdout.splitlines()
    expect_equal(lines[: len(names)], [os.readlink(f"/proc/{container.pid}/ns/{name}") for name in names],
                 "namespaces of exec, and of the first process")  # fmt: skip
    expect_equal(lines[len(names)], HOSTNAME, "name of the host, as exec sees it")
    expect("home" in lines and done.code == 4, f"exec: ended with {done.code}, and saw {lines}")


@case("runtime.exec.streams")
def exec_has_streams_of_its_own(subject: Subject) -> None:
    """A process of exec reads its own standard input, and what it writes is apart from what the first one does."""
    container = subject.start("/bin/sh", "-c", "echo first; sleep 100")
    reader, writer = os.pipe()
    os.write(writer, b"told\n")
    os.close(writer)
    done = container.exec("/bin/sh", "-c", "cat; echo wrong >&2", stdin=reader)
    os.close(reader)
    expect_equal((done.stdout, done.stderr), ("told\n", "wrong\n"), "output and errors of exec")
    expect(soon(lambda: container.output() == "first\n"), f"output of the first process: {container.output()!r}")


@case("runtime.exec.process")
def exec_is_as_described(subject: Subject) -> None:
    """A process of exec has the user, variables and directory it is described with."""
    container = subject.start("sleep", "100")
    script = "id -u; id -g; id -G; pwd; echo $MARK"
    done = container.exec("/bin/sh", "-c", script, user="alice", env=("MARK=x y",), working_dir="/tmp")  # noqa: S108
    expect_equal(succeeded(done).splitlines(), ["1000", "1001", "1001 29", "/tmp", "x y"], "what exec has")  # noqa: S108


@case("runtime.exec.missing-command")
def exec_of_a_missing_command_is_said_to_be(subject: Subject) -> None:
    """A command of exec that does not exist raises CommandNotFoundError; the container goes on."""
    container = subject.start("sleep", "100")
    try:
        container.exec("no-such-command")
    except CommandNotFoundError:
        pass
    else:
        fail("exec: a command that does not exist was run")
    succeeded(container.exec("true"))


@case("runtime.exec.ended")
def exec_in_an_ended_container_fails(subject: Subject) -> None:
    """A container whose first process has ended runs nothing more."""
    container = subject.start("true")
    container.wait()
    try:
        container.exec("true")
    except PlugengineError:
        return
    fail("exec: ran in a container that has ended")


@case("runtime.delete.held")
def deleting_ends_what_is_held(subject: Subject) -> None:
    """Deleting a container that was never started ends its process, and nothing of the command has run."""
    container = subject.container("/bin/sh", "-c", "echo ran")
    container.create()
    subject.driver.delete(container.request, container.record)
    expect(gone(container.pid), f"process {container.pid} is left after delete")
    container.wait()
    expect_equal(container.output(), "", "output of a container that was never started")
    expect_equal(subject.driver.state(container.request, container.record), _STOPPED, "state after delete")


@case("runtime.delete.twice")
def deleting_is_idempotent(subject: Subject) -> None:
    """Deleting twice, without the record, and what never was succeeds, and leaves no file."""
    container = subject.start("true")
    container.wait()
    for record in (container.record, container.record, None):
        subject.driver.delete(container.request, record)
    never = subject.request()
    subject.driver.delete(never, None)
    left = [path for path in (container.request.directory, never.directory) if os.path.lexists(path)]
    expect_equal([path for path in left if os.listdir(path)], [], "directories with files after delete")


@case("runtime.caller.stays")
def the_caller_is_never_changed(subject: Subject) -> None:
    """No verb changes the caller: its namespaces, directory, mask, signals and descriptors."""
    subject.run("true")  # what is imported and opened once

    def look() -> list[object]:
        spaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))}
        mask = os.umask(0o022)
        os.umask(mask)
        return [spaces, os.getcwd(), mask, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))]

    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    container = subject.container("sleep", "100")
    before, opened = look(), descriptors()
    container.create()
    container.start()
    container.kill()
    container.wait()
    subject.driver.delete(container.request, container.record)
    expect_equal(look(), before, "namespaces, directory, mask and signals of the caller")
    streams = 3  # of the case
    expect_equal(
        len(descriptors() - opened), streams, "descriptors the caller has more than before, its streams' alone"
    )
