"""`tracker.watch.http`: answers whole, in pieces, compressed, broken."""

from __future__ import annotations

import gzip
from functools import partial

import pytest
import trio

from tracker.watch.address import GatewayAddress, parse_gateway
from tracker.watch.http import HttpError, open_response

DEADLINE_S = 20.0


async def serving(nursery: trio.Nursery, *pieces: bytes) -> tuple[GatewayAddress, list[bytes]]:
    """A server that answers each request with these bytes; its address, and the requests."""
    requests: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        requests.append(bytes(await stream.receive_some()))
        for piece in pieces:
            await stream.send_all(piece)

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    return parse_gateway(f"http://me:pw@127.0.0.1:{port}"), requests


async def test_a_request_and_its_answer(nursery: trio.Nursery) -> None:
    address, requests = await serving(
        nursery,
        b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 404 No\r\nX-Y: z\r\nContent-Length: 2\r\n\r\n",
        b"no",
    )
    with trio.fail_after(DEADLINE_S):
        async with open_response(
            address, "/a?b", user_agent="tester", headers={"Accept": "x"}
        ) as response:
            assert response.status == 404
            assert response.headers["x-y"] == "z"
            assert await response.read() == b"no"
            assert await response.receive() == b""
    assert requests == [
        b"GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: tester\r\nAccept: x\r\n"
        b"Authorization: Basic bWU6cHc=\r\n\r\n" % address.port
    ]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "framing",
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"),
        (b"\r\n", b"abc", b"de"),  # to the end of the connection
    ],
)
async def test_a_body_in_pieces(nursery: trio.Nursery, framing: tuple[bytes, ...]) -> None:
    address, _ = await serving(nursery, b"HTTP/1.1 200 OK\r\n", *framing)
    with trio.fail_after(DEADLINE_S):
        async with open_response(address, "/", user_agent="tester") as response:
            assert await response.read() == b"abcde"
    nursery.cancel_scope.cancel()


async def test_a_compressed_body(nursery: trio.Nursery) -> None:
    body = gzip.compress(b"hello" * 1000)
    address, _ = await serving(nursery, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", body)
    with trio.fail_after(DEADLINE_S):
        async with open_response(address, "/", user_agent="tester") as response:
            assert await response.read() == b"hello" * 1000
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "the connection was closed without an answer"),
        (b"SSH-2.0\r\n\r\n", "no valid HTTP: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "no valid HTTP: peer closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nabc", "a broken gzip body: "),
    ],
)
async def test_what_is_no_answer(nursery: trio.Nursery, answer: bytes, text: str) -> None:
    address, _ = await serving(nursery, answer)

    async def ask() -> None:
        with trio.fail_after(DEADLINE_S):
            async with open_response(address, "/", user_agent="tester") as response:
                await response.read()

    with pytest.raises(HttpError, match=text):
        await ask()
    nursery.cancel_scope.cancel()
