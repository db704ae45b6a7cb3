"""`tracker.watch.address`: where a gateway is."""

from __future__ import annotations

import pytest

from tracker.watch.address import GatewayAddress, check_device_ids, parse_gateway, split_query

EXPECTED = (
    "; expected http://, https://, ws:// or wss://, then host[:port] and the path that it is "
    "served below, if any"
)


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("http://a", GatewayAddress(False, "a", 80), "http://a"),
        ("ws://a:80/", GatewayAddress(False, "a", 80), "http://a"),
        ("http://a:443", GatewayAddress(False, "a", 443), "http://a:443"),
        ("https://a", GatewayAddress(True, "a", 443), "https://a"),
        ("wss://A.b:8443/", GatewayAddress(True, "a.b", 8443), "https://a.b:8443"),
        ("http://[::1]:8000", GatewayAddress(False, "::1", 8000), "http://[::1]:8000"),
        ("http://a/fleet/", GatewayAddress(False, "a", 80, "/fleet"), "http://a/fleet"),
        ("http://a/é%20b", GatewayAddress(False, "a", 80, "/%C3%A9%20b"), "http://a/%C3%A9%20b"),
        (
            "http://a/fleet/api/v1/stream",
            GatewayAddress(False, "a", 80, "/fleet"),
            "http://a/fleet",
        ),
        (
            "http://a/api/v1/stream?device_ids=A,B",
            GatewayAddress(False, "a", 80, "", "device_ids=A,B"),
            "http://a",
        ),
        (
            "http://bücher.example",
            GatewayAddress(False, "xn--bcher-kva.example", 80),
            "http://xn--bcher-kva.example",
        ),
        (
            "https://me:s%3Acret@a",
            GatewayAddress(True, "a", 443, authorization="Basic bWU6czpjcmV0"),
            "https://a",
        ),
    ],
)
def test_parse(url: str, address: GatewayAddress, shown: str) -> None:
    assert parse_gateway(url) == address
    assert str(parse_gateway(url)) == shown
    assert "bWU6" not in repr(parse_gateway(url))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", "''"),
        ("localhost:8000", "'localhost:8000' is no gateway's address (perhaps http://localhost:8"),
        ("mqtt://a", "'mqtt://a'"),
        ("http://", "'http://'"),
        ("http://a:0", "'http://a:0'"),
        ("http://a:x", "'http://a:x'"),
        ("http://a b", "'http://a b'"),
        ("http://a/\x1b[2J", r"'http://a/\x1b[2J'"),
        ("http://a#b", "'http://a#b'"),
        ("http://me:secret@a#b", "'http://***@a#b'"),
        ("me:secret@a", "'***@a'"),
        ("http://a..b", "'http://a..b'"),
    ],
)
def test_refusals_name_what_stood_there_and_hide_passwords(url: str, shown: str) -> None:
    with pytest.raises(ValueError, match="is no gateway's address") as caught:
        parse_gateway(url)
    assert str(caught.value).startswith(shown)
    assert str(caught.value).endswith(EXPECTED)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "device_ids", "target"),
    [
        ("http://a", ("A", "B"), "/api/v1/stream?device_ids=A,B"),
        (
            "http://a/fleet",
            ("é&=%/ +",),
            "/fleet/api/v1/stream?device_ids=%C3%A9%26%3D%25%2F%20%2B",
        ),
        ("http://a/api/v1/stream?device_ids=A", (), "/api/v1/stream?device_ids=A"),
        ("http://a?x=1", ("A",), "/api/v1/stream?x=1&device_ids=A"),
        ("http://a", (), "/api/v1/stream"),
    ],
)
def test_the_target_of_a_stream(url: str, device_ids: tuple[str, ...], target: str) -> None:
    assert parse_gateway(url).stream_target(device_ids) == target


def test_parameters_stand_before_the_ids() -> None:
    target = parse_gateway("http://a?x=1").stream_target(("A",), {"hello": "1", "mode": "a b&c"})
    assert target == "/api/v1/stream?x=1&hello=1&mode=a%20b%26c&device_ids=A"


@pytest.mark.parametrize(
    ("query", "device_ids", "parameters"),
    [
        ("", (), {}),
        ("device_ids=,", (), {}),
        ("device_ids=A,%20B%20,,A&device_ids=C&last=1", ("A", "B", "C"), {"last": "1"}),
        ("ping=5&ping=6&token=a%26b&empty=", (), {"ping": "5", "token": "a&b", "empty": ""}),
    ],
)
def test_the_query_of_a_pasted_url(
    query: str, device_ids: tuple[str, ...], parameters: dict[str, str]
) -> None:
    assert split_query(query) == (device_ids, parameters)


def test_device_ids_come_once_each() -> None:
    assert check_device_ids(["A", "B", "A"]) == ("A", "B")


@pytest.mark.parametrize("device_id", ["", " A", "A\n", "A,B", "\x85", "x" * 129])
def test_what_cannot_be_a_device_id(device_id: str) -> None:
    with pytest.raises(ValueError, match="is no device id; expected 1 to 128 characters without"):
        check_device_ids([device_id])


def test_one_str_is_not_several_ids() -> None:
    with pytest.raises(
        TypeError, match=r"device_ids is the str 'ABC'; expected several, \['ABC'\]"
    ):
        check_device_ids("ABC")
