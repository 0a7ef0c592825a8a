"""Speak netlink(7): requests as bytes, several in one send, every answer matched to its request."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# include/uapi/linux/netlink.h
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_ROOT = 0x100
NLM_F_MATCH = 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_NONREC = 0x100
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

# include/linux/socket.h
SOL_NETLINK = 270

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTR = struct.Struct("=HH")  # struct nlattr
_ERROR = struct.Struct("=i")
_U32 = struct.Struct("=I")
_BE32 = struct.Struct("!I")
_ALIGN = 4
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo four
# A dump fills what the reader offers, up to 32 KiB (NLMSG_GOODSIZE and af_netlink.c, netlink_dump).
_RECEIVE_BYTES = 1 << 16
_DUMP_ATTEMPTS = 20


def attr(kind: int, data: bytes = b"") -> bytes:
    """Return one attribute, padded."""
    size = _ATTR.size + len(data)
    return _ATTR.pack(size, kind) + data + _PAD[size % _ALIGN]


def attr_u32(kind: int, value: int) -> bytes:
    """Return an attribute that holds a number in the machine's byte order (rtnetlink)."""
    return attr(kind, _U32.pack(value))


def attr_be32(kind: int, value: int) -> bytes:
    """Return an attribute that holds a number in network byte order (netfilter)."""
    return attr(kind, _BE32.pack(value & 0xFFFFFFFF))


def attr_str(kind: int, value: str) -> bytes:
    """Return an attribute that holds a text with its terminator."""
    return attr(kind, os.fsencode(value) + b"\0")


def nest(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute made of attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Return (type without flag bits, content) of every attribute from `offset` on; what is cut off is left out."""
    found = []
    while offset + _ATTR.size <= len(data):
        size, kind = _ATTR.unpack_from(data, offset)
        if size < _ATTR.size or offset + size > len(data):
            break
        found.append((kind & NLA_TYPE_MASK, data[offset + _ATTR.size : offset + size]))
        offset += size + -size % _ALIGN
    return found


class Request:
    """One message to the kernel, not yet numbered.

    Args:
        kind: Message type, `nlmsg_type`.
        flags: NLM_F_* beyond NLM_F_REQUEST.
        body: What follows the header.
        about: The object's name, for errors.
        ack: Ask for an acknowledgement; without it only an error is answered.
    """

    __slots__ = ("about", "ack", "body", "flags", "kind")

    def __init__(self, kind: int, flags: int, body: bytes, about: str, *, ack: bool = True) -> None:
        self.kind: int = kind
        self.flags: int = flags
        self.body: bytes = body
        self.about: str = about
        self.ack: bool = ack


class Answer:
    """What the kernel said to one request."""

    __slots__ = ("done", "error", "interrupted", "replies")

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.replies: list[tuple[int, bytes]] = []  # (message type, body)
        self.done: bool = False
        self.interrupted: bool = False  # a dump that changed under the reader


class NetlinkSocket:
    """A socket of one netlink family; it stays in the network namespace it was made in.

    It holds no thread, no buffer and no cache; the descriptor is close-on-exec.
    """

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._number = 0
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()

    def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """Send all requests at once; return one answer for each, errors as values.

        A request that failed does not keep the kernel from the next ones (a netfilter batch excepted, which is
        one transaction). At most one request may be a dump.
        """
        first = self._number + 1
        self._number += len(requests)
        answers = [Answer() for _ in requests]
        message = b"".join(_pack(request, first + i) for i, request in enumerate(requests))
        self._socket.send(message)
        # The kernel works within the calls, send(2) and (for a dump's next part) recv(2): once nothing is there
        # to receive, nothing will come.
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            _take(data, first, requests, answers)
        for request, answer in zip(requests, answers, strict=True):
            if request.ack and not answer.done and all(other.error is None for other in answers):
                raise OSError(5, "no answer from the kernel", request.about)
        return answers

    def execute(self, *requests: Request, accept: frozenset[int] = frozenset()) -> list[Answer]:
        """Send all requests at once; raise the first error whose number is not in `accept`."""
        answers = self.exchange(requests)
        for answer in answers:
            if answer.error is not None and answer.error.errno not in accept:
                raise answer.error
        return answers

    def get(self, request: Request) -> list[tuple[int, bytes]]:
        """Send one request and return its replies.

        Raises:
            OSError: EINTR: a dump was disturbed by changes more often than is reasonable.
        """
        for _ in range(_DUMP_ATTEMPTS):
            (answer,) = self.execute(request)
            if not answer.interrupted:
                return answer.replies
        raise InterruptedError(4, "list changes faster than it can be read", request.about)


def _pack(request: Request, number: int) -> bytes:
    flags = request.flags | NLM_F_REQUEST | (NLM_F_ACK if request.ack else 0)
    size = _HEADER.size + len(request.body)
    return _HEADER.pack(size, request.kind, flags, number, 0) + request.body + _PAD[size % _ALIGN]


def _take(data: bytes, first: int, requests: Sequence[Request], answers: list[Answer]) -> None:
    """Sort the messages of one datagram to the requests they answer."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
        body = data[offset + _HEADER.size : offset + size]
        offset += size + -size % _ALIGN
        index = number - first
        if not 0 <= index < len(requests) or kind == NLMSG_NOOP:
            continue
        answer = answers[index]
        answer.interrupted |= bool(flags & NLM_F_DUMP_INTR)
        if kind not in (NLMSG_ERROR, NLMSG_DONE):
            answer.replies.append((kind, body))
            continue
        answer.done = True
        code = _ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
        if code < 0 and answer.error is None:
            answer.error = _error(-code, _reason(kind, flags, body), requests[index].about)


def _reason(kind: int, flags: int, body: bytes) -> str:
    """Return the kernel's own words (NLMSGERR_ATTR_MSG), mostly none."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    # NETLINK_CAP_ACK: of the request only its header is sent back.
    offset = _ERROR.size + (_HEADER.size if kind == NLMSG_ERROR else 0)
    for attribute, content in attributes(body, offset):
        if attribute == NLMSGERR_ATTR_MSG:
            return content.rstrip(b"\0").decode(errors="replace")
    return ""


def _error(errno: int, detail: str, about: str) -> OSError:
    reason = os.strerror(errno)
    return OSError(errno, f"{reason} ({detail})" if detail else reason, about)
