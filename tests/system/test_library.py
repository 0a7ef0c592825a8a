"""The engine inside somebody else's process: threads, open files, many containers in a row."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.conftest import Pe
from tests.waiting import PATIENCE_S


def run_program(pe: Pe, program: str) -> str:
    """Run a Python program that embeds the engine; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env=pe.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_with_threads_can_run_containers(pe: Pe) -> None:
    printed = run_program(
        pe,
        """
        import threading
        from plugengine import ContainerSpec, Engine, Streams
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        spec = ContainerSpec(image="host:base", command=("echo", "inside"), network="none", auto_remove=True)
        with Engine() as engine:
            outcome = engine.containers.run(spec, streams=Streams(stdout=1, stderr=2))
        stop.set()
        print("exit", outcome.exit_code, flush=True)
        """,
    )
    assert printed == "inside\nexit 0\n"


def test_a_program_that_lives_on_has_no_children_it_did_not_make(pe: Pe) -> None:
    printed = run_program(
        pe,
        """
        import os
        from plugengine import ContainerSpec, Engine, Streams
        spec = ContainerSpec(image="host:base", command=("true",), network="none", auto_remove=True)
        with Engine() as engine:
            for _ in range(3):
                assert engine.containers.run(spec).exit_code == 0
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no children")
        """,
    )
    assert printed == "no children\n"


def test_a_monitor_lets_go_of_its_callers_descriptors_and_directory(pe: Pe) -> None:
    printed = run_program(
        pe,
        """
        import os, socket
        from plugengine import ContainerSpec, Engine
        server = socket.create_server(("127.0.0.1", 0))
        os.set_inheritable(server.fileno(), True)
        with Engine() as engine:
            row = engine.containers.create(ContainerSpec(image="host:base", command=("sleep", "60"), network="none"))
            engine.containers.start(row.id)
            pid = engine.containers.get(row.id).state.monitor_pid
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            inode = os.fstat(server.fileno()).st_ino
            print(f"socket:[{inode}]" in links, os.readlink(f"/proc/{pid}/cwd"))
            engine.containers.remove(row.id, force=True)
        """,
    )
    assert printed == "False /\n"


def test_warnings_and_errors_reach_the_caller_as_values(pe: Pe) -> None:
    printed = run_program(
        pe,
        """
        from plugengine import CommandNotFoundError, ContainerSpec, Engine
        with Engine() as engine:
            try:
                engine.containers.run(
                    ContainerSpec(image="host:base", command=("nowhere",), network="none", auto_remove=True)
                )
            except CommandNotFoundError as exc:
                print(exc.exit_code, "nowhere" in exc.message, bool(exc.hint))
            print(len(engine.containers.list(all=True)))
        """,
    )
    assert printed == "127 True True\n0\n"


def test_a_run_tells_of_the_container_before_it_starts_and_can_leave_it_running(pe: Pe) -> None:
    printed = run_program(
        pe,
        """
        from plugengine import ContainerSpec, Engine
        spec = ContainerSpec(image="host:base", command=("sleep", "100"), network="none", auto_remove=True)
        with Engine() as engine:
            row = engine.containers.run(spec, detach=True, made=lambda made: print(made.status, made.state.pid))
            running = engine.containers.get(row.id)
            print(running.status, running.state.pid > 0, running.spec == row.spec)
            engine.containers.remove(row.id, force=True)
        """,
    )
    assert printed == "created 0\nrunning True True\n"


def test_what_is_raised_before_the_start_leaves_the_container_created(pe: Pe) -> None:
    printed = run_program(
        pe,
        """
        from plugengine import ContainerSpec, Engine
        def refuse(row):
            raise RuntimeError(row.name)
        with Engine() as engine:
            try:
                engine.containers.run(ContainerSpec(image="host:base", name="kept", command=("true",)), made=refuse)
            except RuntimeError as exc:
                print(exc, engine.containers.get("kept").status)
            engine.containers.remove("kept")
        """,
    )
    assert printed == "kept created\n"


def test_a_command_line_of_any_length_reaches_the_monitor(pe: Pe) -> None:
    words = [str(number) * 1000 for number in range(100)]
    done = pe("run", "--rm", "--net", "none", "host:base", "sh", "-c", 'echo "$#"', "sh", *words, check=True)
    assert done.stdout == "100\n"
    printed = run_program(
        pe,
        """
        import threading
        from plugengine import ContainerSpec, Engine, Streams
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        command = ("sh", "-c", 'echo "$#"', "sh", *("x" * 1000,) * 100)
        with Engine() as engine:
            spec = ContainerSpec(image="host:base", command=command, network="none", auto_remove=True)
            engine.containers.run(spec, streams=Streams(stdout=1, stderr=2))
        stop.set()
        """,
    )
    assert printed == "100\n"
