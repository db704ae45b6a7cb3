"""Broker URLs: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from tracker.mqtt.address import EXPECTED, Address, parse_address


@pytest.mark.parametrize(
    ("url", "address", "transport", "is_tls", "text"),
    [
        (
            "mqtt://host",
            Address("mqtt", "host", 1883, "", None, None),
            "tcp",
            False,
            "mqtt://host:1883",
        ),
        (
            "mqtts://us%40er:p%3Aw%2F@HOST:1234/",
            Address("mqtts", "host", 1234, "", "us@er", "p:w/"),
            "tcp",
            True,
            "mqtts://host:1234",
        ),
        (
            "mqtts://[::1]",
            Address("mqtts", "::1", 8883, "", None, None),
            "tcp",
            True,
            "mqtts://[::1]:8883",
        ),
        (
            "ws://user@host/path",
            Address("ws", "host", 80, "/path", "user", None),
            "websockets",
            False,
            "ws://host:80/path",
        ),
        (
            "wss://host:8081",
            Address("wss", "host", 8081, "/mqtt", None, None),
            "websockets",
            True,
            "wss://host:8081/mqtt",
        ),
    ],
)
def test_a_url_is_taken_apart(
    url: str, address: Address, transport: str, is_tls: bool, text: str
) -> None:
    parsed = parse_address(url)
    assert parsed == address
    assert (parsed.transport, parsed.is_tls, str(parsed)) == (transport, is_tls, text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "host:1883",
        "http://host",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:0",
        "mqtt://host:70000",
        "mqtt://host:port",
        "mqtt://host/path",
        "mqtt://host?x=1",
        "mqtt://host#x",
        "mqtt://ho st",
        "mqtt://[::1",
    ],
)
def test_what_is_no_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match=r"^mqtt\.url: ") as caught:
        parse_address(url)
    assert str(caught.value).endswith(EXPECTED)


def test_no_text_shows_the_password() -> None:
    address = parse_address("mqtt://user:secret@host")
    assert "secret" not in f"{address} {address!r}"
    with pytest.raises(ValueError, match=r"user:\*\*\*@host") as caught:
        parse_address("http://user:secret@host")
    assert "secret" not in str(caught.value)
