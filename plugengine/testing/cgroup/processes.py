"""What the processes in a group do to run into its limits."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable
from typing import Final

MIB: Final = 1 << 20


def take_memory(size: int) -> Callable[[], None]:
    """Return a function that touches so many bytes of memory of its own, and lets go of them."""

    def act() -> None:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for offset in range(0, size, mmap.PAGESIZE):
                memory[offset] = 1

    return act


def hold_memory(size: int) -> Callable[[], None]:
    """Return a function that touches so many bytes of memory and then stops itself."""

    def act() -> None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1
        os.kill(os.getpid(), signal.SIGSTOP)

    return act


def spin() -> None:
    """Use a processor for ever."""
    while True:
        pass


def use_processor(seconds: float) -> Callable[[], None]:
    """Return a function that uses so much processor time."""

    def act() -> None:
        while time.process_time() < seconds:
            pass

    return act


def wait() -> None:
    """Sleep for ever."""
    while True:
        signal.pause()


def wait_stubbornly() -> None:
    """Sleep for ever, deaf to every signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    wait()


def fork_until_refused(most: int) -> Callable[[], int]:
    """Return a function that forks sleepers; it returns how many there are when fork(2) says EAGAIN, or `most`."""

    def act() -> int:
        for count in range(most):
            try:
                if os.fork() == 0:
                    wait()
            except BlockingIOError:
                return count
        return most

    return act


def fork_bomb() -> None:
    """Fork as fast as the group allows, each child in a session of its own; the group must have a limit of pids."""
    wait_once = 0.001
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
            time.sleep(wait_once)
        except OSError:
            time.sleep(wait_once)


def count_in(path: str) -> Callable[[], None]:
    """Return a function that counts in a file, some hundred times a second, for ever."""

    def act() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        number = 0
        while True:
            number += 1
            os.pwrite(fd, b"%020d" % number, 0)
            time.sleep(0.002)

    return act


def counted(path: str) -> int:
    """Return how far `count_in` is; 0: it has not begun."""
    try:
        with open(path, encoding="ascii") as stream:
            return int(stream.read() or 0)
    except FileNotFoundError:
        return 0


def processor_time_s(pid: int) -> float:
    """Return the processor time another process has used, by its CPU clock; see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)
