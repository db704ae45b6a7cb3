"""What all routes share: the envelope, methods, CORS, the way to the page."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway import STREAM, start_gateway
from tests.peer import DEADLINE_S, handshake, request_head

PATHS = [STREAM, f"{STREAM}/stats", "/healthz", "/readyz", "/metrics", "/api/v1/devices"]


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1", "/api/v1/streams", f"{STREAM}/", "/a/b/c"])
async def test_an_unknown_path_is_a_404_with_the_envelope(nursery: trio.Nursery, path: str) -> None:
    peer = await (await start_gateway(nursery)).connect()
    response = await peer.request(path)
    assert (response.status, response.headers["content-type"]) == (404, "application/json")
    assert json.loads(response.body) == {
        "event": "error",
        "data": {"message": f"Not Found: {path}"},
    }


@pytest.mark.parametrize("path", ["/a/b/c", f"{STREAM}/stats", "/", "/healthz"])
async def test_a_websocket_elsewhere_is_refused_with_the_envelope(
    nursery: trio.Nursery, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await (await start_gateway(nursery)).connect()
    await peer.send(handshake(path))
    response = await peer.read_response()
    assert response.status in (400, 404)
    assert json.loads(response.body)["event"] == "error"
    assert await peer.read_end() == b""
    assert caplog.records == []


@pytest.mark.parametrize("path", PATHS)
async def test_options_tells_the_methods(nursery: trio.Nursery, path: str) -> None:
    peer = await (await start_gateway(nursery)).connect()
    response = await peer.request(path, method="OPTIONS")
    assert response.status == 200
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_without_the_setting_no_origin_is_allowed(nursery: trio.Nursery) -> None:
    peer = await (await start_gateway(nursery)).connect()
    response = await peer.request(f"{STREAM}/stats", "Origin: https://a.example")
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert "vary" not in response.headers


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("https://a.example",), "https://a.example", "https://a.example"),
        (("https://a.example",), "https://b.example", None),
        (("https://a.example",), None, None),
        (("https://a.example",), "https://a.example.evil", None),
        (("*",), "https://b.example", "https://b.example"),
    ],
)
async def test_with_the_setting_these_origins_are_allowed(
    nursery: trio.Nursery, origins: tuple[str, ...], origin: str | None, allowed: str | None
) -> None:
    gateway = await start_gateway(nursery, api={"cors_origins": origins})
    peer = await gateway.connect()
    headers = [] if origin is None else [f"Origin: {origin}"]
    for response in (
        await peer.request(f"{STREAM}/stats", *headers),
        await peer.request(STREAM, *headers),
        await peer.request(STREAM, *headers, method="OPTIONS"),
        await peer.open_sse("a", *headers),
    ):
        assert response.headers.get("access-control-allow-origin") == allowed
        assert response.headers["vary"] == "Origin"


async def test_other_paths_are_nobody_elses(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api={"cors_origins": ("*",)})
    peer = await gateway.connect()
    response = await peer.request("/metrics", "Origin: https://a.example")
    assert "access-control-allow-origin" not in response.headers


async def test_the_page_can_be_left_out(nursery: trio.Nursery) -> None:
    with_page = await (await start_gateway(nursery)).connect()
    assert (await with_page.request("/")).headers["content-type"] == "text/html; charset=utf-8"
    without = await (await start_gateway(nursery, api={"page": False})).connect()
    assert (await without.request("/")).status == 404


async def test_behind_a_proxy_all_stands_below_a_path(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, http={"root_path": "/fleet"})
    peer = await gateway.connect()
    assert (await peer.request(f"/fleet{STREAM}/stats")).status == 200
    assert (await peer.request(f"{STREAM}/stats")).status == 404
    assert (await peer.request("/fleet/")).status == 200


# A path may hold anything but what ends it.
_TEXT = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(path=_TEXT, query=_TEXT)
async def test_no_target_is_our_fault(
    path: str, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a 500 nor a traceback, whatever is asked for."""
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery)
        for head in (
            request_head(f"/{path}?{query}", "Connection: close"),
            handshake(f"/{path}?{query}"),
            request_head(f"{STREAM}?device_ids={query}", "Connection: close", method="HEAD"),
        ):
            peer = await gateway.connect()
            await peer.send(head)
            with trio.fail_after(DEADLINE_S):
                assert (await peer.read_head()).status < 500
        nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == []
