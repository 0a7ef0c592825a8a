"""A pseudoterminal lives in the devpts it was made in, has a size, and is a session's terminal."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugengine.kernel import mount, tty
from tests.system.kernel.conftest import InChild


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    ours = tty.open_ptmx("/dev/pts") if os.access("/dev/pts/ptmx", os.W_OK) else os.open("/dev/ptmx", os.O_RDWR)
    tty.unlock_pty(ours)
    theirs = tty.open_pty_peer(ours)
    yield ours, theirs
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_a_terminal_is_made_inside_the_given_devpts(
    tmp_path: Path, in_mount_namespace: InChild, by_descriptor: bool
) -> None:
    def run() -> list[object]:
        mount.mount("devpts", str(tmp_path), "devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
        devpts = os.open(tmp_path, os.O_PATH) if by_descriptor else str(tmp_path)
        ours = tty.open_ptmx(devpts)
        tty.unlock_pty(ours)
        theirs = tty.open_pty_peer(ours)
        number = tty.pty_number(ours)
        same = os.fstat(theirs).st_ino == os.stat(tmp_path / str(number)).st_ino
        os.write(theirs, b"hello\n")
        return [number, same, os.read(ours, 10).decode(), os.get_inheritable(ours), os.get_inheritable(theirs)]

    assert in_mount_namespace(run) == [0, True, "hello\r\n", False, False]


def test_a_symlink_in_the_place_of_ptmx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ptmx").symlink_to("/dev/ptmx")
    with pytest.raises(OSError, match="symbolic links") as caught:
        tty.open_ptmx(str(tmp_path))
    assert caught.value.errno == errno.ELOOP


def test_a_locked_terminal_has_no_other_end() -> None:
    ours = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        with pytest.raises(OSError, match=f"terminal descriptor {ours}") as caught:
            tty.open_pty_peer(ours)
    finally:
        os.close(ours)
    assert caught.value.errno == errno.EIO


def test_the_size_set_on_one_end_is_read_on_the_other(pair: tuple[int, int]) -> None:
    ours, theirs = pair
    tty.set_window_size(ours, 50, 132)
    assert tty.get_window_size(theirs) == (50, 132)


def test_a_file_has_no_window_size(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="terminal descriptor") as caught:
        tty.get_window_size(file.fileno())
    assert caught.value.errno == errno.ENOTTY


def test_a_controlling_terminal_sends_resize_and_interrupt(pair: tuple[int, int], in_child: InChild) -> None:
    ours, theirs = pair

    def run() -> list[int]:
        os.setsid()
        tty.make_controlling(theirs)
        watched = {signal.SIGWINCH, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        tty.set_window_size(ours, 10, 20)
        first = signal.sigtimedwait(watched, 5)
        os.write(ours, b"\x03")
        second = signal.sigtimedwait(watched, 5)
        assert first is not None
        assert second is not None
        return [first.si_signo, second.si_signo]

    assert in_child(run) == [signal.SIGWINCH, signal.SIGINT]


def test_a_process_that_leads_no_session_gets_no_controlling_terminal(pair: tuple[int, int], in_child: InChild) -> None:
    def run() -> int | None:
        try:
            tty.make_controlling(pair[1])
        except OSError as exc:
            return exc.errno
        return None

    assert in_child(run) == errno.EPERM


def test_raw_mode_passes_every_byte_and_can_be_undone(pair: tuple[int, int]) -> None:
    ours, theirs = pair
    before = tty.set_raw(theirs)
    os.write(ours, b"\x03\x04\r")
    assert os.read(theirs, 10) == b"\x03\x04\r"
    os.write(theirs, b"a\n")
    assert os.read(ours, 10) == b"a\n"
    tty.restore(theirs, before)
    os.write(theirs, b"b\n")
    assert os.read(ours, 10) == b"b\r\n"
