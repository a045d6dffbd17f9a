"""Small requests as they stand in a socket: their size from their beginning, and whether they have come."""

import select
import socket
import time

import pytest

from server import small

HEAD = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n"


@pytest.fixture
def pair():
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            yield one, other


def waiting(connection, seconds=0.2):
    return bool(select.select([connection], [], [], seconds)[0])


@pytest.mark.parametrize(
    ("begin", "size"),
    [
        (HEAD, len(HEAD) + 12),
        (HEAD + b"some", len(HEAD) + 12),
        (HEAD.replace(b"Content-Length: 12", b"content-length:12 "), len(HEAD) + 12),
        (HEAD[:-2], None),
        (HEAD.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked"), None),
        (HEAD.replace(b"12", b"-1"), None),
        (HEAD.replace(b"12", b"1048577"), None),
        (HEAD.replace(b"Host: x", b"Expect: 100-continue"), None),
        (HEAD.replace(b"Host: x", b"Content-Encoding: gzip"), None),
        (HEAD.replace(b"Content-Length: 12\r\n", b"") + b"\r\nContent-Length: 12\r\n", None),  # that is the body
    ],
)
def test_the_size_is_that_of_head_and_body(begin, size):
    """Known where the head is whole and names a length that is small; else somebody has to read on."""
    assert small.whole_size(begin) == size


def test_a_client_may_say_that_nothing_follows():
    """The header Connection: close says so, wherever it stands; words in the body do not."""
    assert not small.is_last(HEAD)
    assert small.is_last(HEAD.replace(b"Host: x", b"connection: Close"))
    assert not small.is_last(HEAD + b"\r\nConnection: close\r\n")


def test_what_has_come_is_counted_and_left(pair):
    """Bytes count until they are taken; none are on a connection that is closed."""
    client, server = pair
    assert not small.has_come(server, 1)
    client.sendall(b"four")
    assert waiting(server, 5)
    assert small.has_come(server, 4)
    assert not small.has_come(server, 5)
    assert server.recv(9) == b"four"
    server.close()
    assert not small.has_come(server, 1)


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_the_poller_is_told_when_it_is_whole(pair, size):
    """Not before, not even of most of it; and there is room for all of it, though nobody reads."""
    client, server = pair
    small.tell_when_whole(server, size)
    client.settimeout(10)
    client.sendall(bytes(size - 1))
    assert not waiting(server)
    client.sendall(b"x")
    assert waiting(server, 10)
    assert small.has_come(server, size)
    small.tell_when_whole(server, 1)
    assert len(server.recv(size, socket.MSG_WAITALL)) == size
    client.sendall(b"y")
    assert waiting(server, 10)


def test_a_client_that_goes_wakes_the_poller(pair):
    """Waiting for the rest ends when there will be none."""
    client, server = pair
    small.tell_when_whole(server, 100)
    client.sendall(b"most of it")
    client.close()
    assert waiting(server, 10)


def test_what_is_written_comes_in_one_piece(pair):
    """Head and body of an answer are one packet, of which a reader sees all or nothing."""
    client, server = pair
    with small.in_one_piece(server):
        server.sendall(b"head")
        assert not waiting(client, 0.05)
        server.sendall(b"body")
    assert client.recv(100) == b"headbody"


def test_a_client_that_takes_nothing_is_given_a_second(pair):
    """Then writing fails, instead of holding up whoever writes; later writing waits as ever."""
    client, server = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    began = time.monotonic()
    with pytest.raises(BlockingIOError), small.in_one_piece(server):
        server.sendall(bytes(64 << 20))
    assert 0.5 < time.monotonic() - began < 5
    assert server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)
