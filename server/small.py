"""Small requests as they stand in a socket, before anything is taken from it: how large they are, and what is there.

The kernel collects a small request on its own. The thread that accepts connections can then read all of it without
waiting for its client, and answer it without a change of threads, which would cost more than a small prediction.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import re
import socket
import struct
import termios
from collections.abc import Iterator

__all__ = ["LARGEST", "has_come", "in_one_piece", "is_last", "tell_when_whole", "whole_size"]

LARGEST = 1 << 20  # bytes; what is longer is better received while it is being scored

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,7})[ \t]*\r\n", re.IGNORECASE)
_LAST = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
_OTHER = re.compile(rb"\r\n(expect|content-encoding):", re.IGNORECASE)  # waits for a word, or may grow
_A_SECOND = struct.pack("@ll", 1, 0)
_EVER = struct.pack("@ll", 0, 0)


def whole_size(begin: bytes) -> int | None:
    """The bytes of a request that begins so, headers and body; None where that does not say, or it is not small."""
    end = begin.find(_END)
    length = _LENGTH.search(begin, 0, end + 2)
    if end < 0 or length is None or _OTHER.search(begin, 0, end):
        return None
    size = end + len(_END) + int(length[1])
    return size if size <= LARGEST else None


def is_last(begin: bytes) -> bool:
    """Whether its client says that nothing comes behind it on this connection."""
    return _LAST.search(begin, 0, begin.find(_END) + 2) is not None


def has_come(connection: socket.socket, size: int) -> bool:
    """Whether so many bytes are there, not taken yet; none are where the connection is closed."""
    there = array.array("i", [0])
    try:
        fcntl.ioctl(connection, termios.FIONREAD, there)
    except (OSError, ValueError):
        return False
    return there[0] >= size


@contextlib.contextmanager
def in_one_piece(connection: socket.socket) -> Iterator[None]:
    """Have what a block writes sent at its end, not packet by packet; a client that does not take it is given a second."""
    cork = getattr(socket, "TCP_CORK", None)  # Linux
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _A_SECOND)
    if cork is not None:
        connection.setsockopt(socket.IPPROTO_TCP, cork, 1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it may be closed by now
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _EVER)
            if cork is not None:
                connection.setsockopt(socket.IPPROTO_TCP, cork, 0)


def tell_when_whole(connection: socket.socket, size: int) -> None:
    """Have the poller look away until so many bytes have come; 1 has it look as ever. Makes room for them, too."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
