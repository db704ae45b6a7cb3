"""The judgement of a request head, before Hypercorn sees a byte of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.peer import handshake, request_head
from tracker.server.request import HEAD_TOO_LARGE, HEAD_TOO_SLOW, Head, Refusal, judge, split_head


def refused(head: bytes) -> Refusal:
    """The refusal of a head that must be refused."""
    judgement = judge(head)
    assert isinstance(judgement, Refusal), judgement
    return judgement


def admitted(head: bytes) -> Head:
    """The head that passes."""
    judgement = judge(head)
    assert isinstance(judgement, Head), judgement
    return judgement


# Where a head ends


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
        (b"GET / HTTP/1.1\r\n\r", None),
        (b"GET / HTTP/1.1\r\n\r\n", (b"GET / HTTP/1.1\r\n\r\n", b"")),
        (b"GET / HTTP/1.1\n\n", (b"GET / HTTP/1.1\n\n", b"")),
        (b"GET / HTTP/1.1\r\n\nrest", (b"GET / HTTP/1.1\r\n\n", b"rest")),
        (b"a\r\n\r\nb\r\n\r\n", (b"a\r\n\r\n", b"b\r\n\r\n")),
    ],
)
def test_a_head_ends_with_its_first_empty_line(
    data: bytes, parts: tuple[bytes, bytes] | None
) -> None:
    assert split_head(data) == parts
    assert split_head(bytearray(data)) == parts


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n"]), max_size=12), st.data())
def test_a_head_is_found_in_pieces_as_in_one(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    held, searched_bytes = bytearray(), 0
    while len(held) < len(whole):
        size = data.draw(st.integers(1, 4))
        held += whole[len(held) : len(held) + size]
        parts = split_head(held, searched_bytes)
        assert parts == split_head(bytes(held))
        if parts is not None:
            return
        searched_bytes = len(held)


# What passes


def test_what_is_in_order_passes_unchanged_but_for_the_case_of_names() -> None:
    head = admitted(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nLast-Event-ID:  7 \r\nX:\r\n\r\n")
    assert head == Head(
        b"GET /a?b=c HTTP/1.1\r\nhost: x\r\nlast-event-id: 7\r\nx: \r\n\r\n", is_websocket=False
    )


def test_one_empty_line_before_the_request_line_is_forgiven() -> None:
    """RFC 9112 §2.2."""
    assert admitted(b"\r\n" + request_head("/")) == admitted(request_head("/"))


def test_a_handshake_passes_without_the_offer_to_compress() -> None:
    head = admitted(
        handshake(
            "/ws",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            "sec-websocket-extensions: x-webkit-deflate-frame",
            "Origin: http://x",
        )
    )
    assert head == Head(
        b"GET /ws HTTP/1.1\r\nhost: test\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\norigin: http://x\r\n"
        b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        is_websocket=True,
    )


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "WEBSOCKET"])
@pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade", "upgrade,close"])
def test_a_handshake_is_known_in_any_case(upgrade: str, connection: str) -> None:
    head = request_head(
        "/",
        f"Connection: {connection}",
        f"Upgrade: {upgrade}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: x",
    )
    assert admitted(head).is_websocket


@pytest.mark.parametrize(
    "head",
    [
        handshake("/", method="HEAD"),
        handshake("/").replace(b"HTTP/1.1", b"HTTP/1.0"),
        handshake("/").replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        handshake("/").replace(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: h2c"),
        handshake("/").replace(b"Connection: Upgrade", b"Connection: close"),
    ],
    ids=["HEAD", "HTTP/1.0", "h2c", "two upgrades", "no upgrade token"],
)
def test_what_is_no_handshake_passes_without_any_upgrade(head: bytes) -> None:
    """RFC 9110 §7.8: a server may ignore an Upgrade; Hypercorn must not see one."""
    passed = admitted(head)
    assert not passed.is_websocket
    assert b"pgrade" not in passed.data
    assert b"h2c" not in passed.data


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ("close", b"connection: close\r\n"),
        ("Keep-Alive", b"connection: keep-alive\r\n"),
        ("keep-alive, close", b"connection: close\r\n"),
        ("X-Something", b""),
    ],
)
def test_of_connection_only_what_is_about_the_connection_passes(sent: str, passed: bytes) -> None:
    assert admitted(request_head("/", f"Connection: {sent}")).data == (
        b"GET / HTTP/1.1\r\nhost: test\r\n" + passed + b"\r\n"
    )


def test_the_absolute_form_passes_as_a_path() -> None:
    """RFC 9112 §3.2.2."""
    for target, path in {
        "http://x": b"/",
        "HTTP://x:80/a?b": b"/a?b",
        "https://[::1?q": b"/?q",
        "http:///a": b"/a",
    }.items():
        assert admitted(request_head(target)).data.startswith(b"GET " + path + b" HTTP/1.1\r\n")


def test_options_may_ask_about_the_whole_server() -> None:
    assert admitted(request_head("*", method="OPTIONS")).data.startswith(b"OPTIONS * HTTP/1.1\r\n")


def test_nothing_of_a_body_or_an_interim_answer_is_hypercorns_business() -> None:
    head = admitted(request_head("/", "Expect: 100-continue", "Content-Length: 0"))
    assert head.data == b"GET / HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n"


# What is refused


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0b\r\n\r\n",
        request_head("?device_ids=a"),
        request_head("a"),
        request_head("*"),
        request_head("ftp://a/b"),
        b"GET / HTTP/1.1\r\n\r\n",
        request_head("/", "Host: again"),
        request_head("/", "Content-Length: -1"),
        request_head("/", "Content-Length: +1"),
        request_head("/", "Content-Length: 0, 0"),
        request_head("/", "Content-Length:"),
        request_head("/", "Content-Length: " + "9" * 19),
        request_head("/", "Content-Length: 0", "Transfer-Encoding: chunked"),
        request_head("/", "Transfer-Encoding: chunked", "content-length: 5"),
        handshake("/").replace(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b""),
    ],
)
def test_what_is_malformed_is_a_400_that_says_what_was_expected(head: bytes) -> None:
    refusal = refused(head)
    assert refusal.status is HTTPStatus.BAD_REQUEST
    assert ", expected " in refusal.message


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "get", "!"]
)
@pytest.mark.parametrize("make", [request_head, handshake])
def test_other_methods_are_a_405(method: str, make: Callable[..., bytes]) -> None:
    refusal = refused(make("/", method=method))
    assert refusal.status is HTTPStatus.METHOD_NOT_ALLOWED
    assert refusal.headers == (("allow", "GET, HEAD, OPTIONS"),)


@pytest.mark.parametrize("header", ["Content-Length: 1", "Transfer-Encoding: chunked"])
def test_a_body_is_a_413(header: str) -> None:
    assert refused(request_head("/", header)).status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_another_version_of_http_is_a_505() -> None:
    """HTTP/2 with prior knowledge, which Hypercorn would take."""
    preface = b"PRI * HTTP/2.0\r\n\r\n"
    assert refused(preface).status is HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    assert refused(request_head("/", version="0.9")).message == (
        "HTTP/0.9 is not spoken here, expected HTTP/1.1"
    )


@pytest.mark.parametrize("version", ["Sec-WebSocket-Version: 8", "X: y"])
def test_another_version_of_websocket_is_a_426_that_names_ours(version: str) -> None:
    """RFC 6455 §4.4."""
    refusal = refused(handshake("/").replace(b"Sec-WebSocket-Version: 13", version.encode()))
    assert refusal.status is HTTPStatus.UPGRADE_REQUIRED
    assert refusal.headers == (("sec-websocket-version", "13"),)


@pytest.mark.parametrize(
    "refusal",
    [
        HEAD_TOO_LARGE,
        HEAD_TOO_SLOW,
        refused(b"x\n\n"),
        refused(request_head("/", method="POST")),
        refused(request_head("/", "Content-Length: 9")),
    ],
    ids=lambda refusal: str(int(refusal.status)),
)
def test_a_refusal_is_a_whole_answer_with_the_envelope_of_the_contract(refusal: Refusal) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(refusal.response())
    response, body, end = client.next_event(), client.next_event(), client.next_event()
    assert isinstance(response, h11.Response)
    assert isinstance(body, h11.Data)
    assert isinstance(end, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    assert client.their_state is h11.MUST_CLOSE
    assert response.status_code == refusal.status
    headers = dict(response.headers)
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body.data) == {"event": "error", "data": {"message": refusal.message}}


# The law, for any bytes

_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Host: x",
                b"Connection: Upgrade",
                b"Connection: close",
                b"Upgrade: websocket",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABkAAQAAP__",
                b"Sec-WebSocket-Version: 13",
                b"Sec-WebSocket-Key: x",
                b"Content-Length: 0",
                b"Content-Length: 3",
                b"Transfer-Encoding: chunked",
                b"Expect: 100-continue",
            ]
        ),
        st.binary(max_size=20).filter(lambda line: b"\n" not in line),
        st.builds(
            lambda name, value: name + b":" + value,
            st.sampled_from([b"a", b"host", b"connection", b"content-length"]),
            st.binary(max_size=12).filter(lambda value: b"\n" not in value),
        ),
    ),
    max_size=8,
)
_TARGETS = st.one_of(
    st.sampled_from([b"/", b"*", b"http://x/y"]),
    st.binary(min_size=1, max_size=8).map(lambda tail: b"/" + tail),
)


@given(
    method=st.sampled_from([b"GET", b"HEAD", b"OPTIONS", b"POST"]),
    target=_TARGETS,
    version=st.sampled_from([b"1.0", b"1.1"]),
    lines=_LINES,
    behind=st.binary(max_size=20),
)
@example(b"GET", b"/", b"1.1", [b"Host: \xe9"], b"\x81\x80")
def test_what_passes_is_one_request_without_a_body_for_h11(
    method: bytes, target: bytes, version: bytes, lines: list[bytes], behind: bytes
) -> None:
    data = b"\r\n".join((b"%b %b HTTP/%b" % (method, target, version), *lines, b"", b"")) + behind
    parts = split_head(data)
    assert parts is not None
    assert b"".join(parts) == data
    head = judge(parts[0])
    if isinstance(head, Refusal):
        assert head.response().startswith(b"HTTP/1.1 4")
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(head.data)
    request, end = server.next_event(), server.next_event()
    assert isinstance(request, h11.Request)
    assert isinstance(end, h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    assert request.target == b"*" or request.target.startswith(b"/")
    assert (b"upgrade" in dict(request.headers)) is head.is_websocket
    assert not server.they_are_waiting_for_100_continue


@given(st.binary(max_size=300))
def test_a_judgement_of_any_bytes_raises_nothing(data: bytes) -> None:
    parts = split_head(data + b"\n\n")
    assert parts is not None
    judge(parts[0])
