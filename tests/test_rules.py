"""Every rule, each message whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tracker.rules import Broken, bind_problem, broken_rules, quoted
from tracker.settings import ApiSettings, HttpSettings, MqttSettings, Settings

URL = "expected mqtt://, mqtts://, ws:// or wss://, then [user:password@]host[:port]"
BEHIND = (
    f"{URL} and nothing behind it but the path of ws:// and wss:// "
    "(in a password, write / as %2F, # as %23 and ? as %3F)"
)
ADDRESS = "is no address; expected host:port, [ipv6]:port or unix:path"
ORIGIN = (
    "is no origin; expected scheme://host[:port] as a browser sends it (lower case, no path), or *"
)


def broken(
    *,
    mqtt: MqttSettings | None = None,
    http: HttpSettings | None = None,
    api: ApiSettings | None = None,
) -> list[Broken]:
    return list(
        broken_rules(
            Settings(
                mqtt=mqtt or MqttSettings(), http=http or HttpSettings(), api=api or ApiSettings()
            )
        )
    )


def test_the_defaults_break_nothing() -> None:
    assert broken() == []


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://broker",
        "mqtt://127.0.0.1:1883",
        "mqtt://broker/",
        "mqtts://user:p%2Fw@broker.example.com:8883",
        "ws://broker:9001/mqtt",
        "wss://[2001:db8::1]:443/mqtt",
        "mqtt://my_broker:1883",
        "MQTT://Broker",
    ],
)
def test_urls_of_brokers(url: str) -> None:
    assert broken(mqtt=MqttSettings(url=url)) == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", URL),
        ("broker:1883", URL),
        ("http://broker", URL),
        ("mqtt://", URL),
        ("mqtt://:1883", URL),
        ("mqtt://broker:0", URL),
        ("mqtt://broker:65536", URL),
        ("mqtt://broker:mqtt", URL),
        ("mqtt://[::1", URL),
        ("mqtt://user:p#w@broker", URL),
        ("mqtt://bro~ker", f"its host is no name and no address; {URL}"),
        ("mqtt://::1:1883", URL),
        ("mqtt:// broker", f"a URL has no spaces and no control characters; {URL}"),
        ("mqtt://broker\n", f"a URL has no spaces and no control characters; {URL}"),
        ("mqtt://broker/trackers", BEHIND),
        ("wss://broker/mqtt?token=1", BEHIND),
        ("mqtt://broker#top", BEHIND),
    ],
)
def test_what_is_no_url_of_a_broker(url: str, problem: str) -> None:
    assert broken(mqtt=MqttSettings(url=url)) == [Broken("mqtt.url", problem)]


@pytest.mark.parametrize(
    "topic", ["#", "+", "/", "a//b", "trackers/#", "+/+/x", "$share/group/trackers/#", "ñandú/+"]
)
def test_topic_filters(topic: str) -> None:
    assert broken(mqtt=MqttSettings(topics=(topic,))) == []


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        ("", "it is empty"),
        ("trackers/#/x", "# must be its last level, alone"),
        ("trackers/x#", "# must be its last level, alone"),
        ("trackers/+x", "+ must stand alone in its level"),
        ("a\0b", "expected no NUL character"),
        ("\udc80", "expected valid UTF-8"),
        ("x" * 65_536, "expected at most 65535 bytes"),
        ("$share/group", "expected $share/group/filter, without + or # in the group"),
        ("$share//a", "expected $share/group/filter, without + or # in the group"),
        ("$share/g+/a", "expected $share/group/filter, without + or # in the group"),
        ("$share/g/", "it is empty"),
        ("$share/g/#/x", "# must be its last level, alone"),
    ],
)
def test_what_is_no_topic_filter(topic: str, problem: str) -> None:
    assert broken(mqtt=MqttSettings(topics=("ok", topic))) == [
        Broken("mqtt.topics", f"{quoted(topic)} is no topic filter: {problem}")
    ]


def test_the_rules_of_mqtt(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    path = str(file)
    mqtts = "mqtts://broker"
    either = "a password stands in {} too; expected one of them"
    alone = 'a password without a user needs MQTT 5; expected mqtt.username, or protocol "5"'
    no_tls = "it has no effect without TLS; expected mqtts:// or wss:// in mqtt.url"
    cases: list[tuple[MqttSettings, list[Broken]]] = [
        (MqttSettings(topics=()), [Broken("mqtt.topics", "expected at least one topic filter")]),
        (MqttSettings(client_id="a\0"), [Broken("mqtt.client_id", "expected no NUL character")]),
        (
            MqttSettings(clean_session=False),
            [
                Broken(
                    "mqtt.clean_session",
                    "a session that outlives the connection needs an identifier; "
                    "expected mqtt.client_id",
                    ("mqtt.client_id",),
                )
            ],
        ),
        (MqttSettings(clean_session=False, client_id="gateway-1"), []),
        (
            MqttSettings(reconnect_min_s=31),
            [
                Broken(
                    "mqtt.reconnect_min_s",
                    "expected no more than mqtt.reconnect_max_s",
                    ("mqtt.reconnect_max_s",),
                )
            ],
        ),
        (MqttSettings(reconnect_min_s=30, reconnect_max_s=30), []),
        (
            MqttSettings(username="u", password="p", password_file=path),
            [Broken("mqtt.password_file", either.format("mqtt.password"), ("mqtt.password",))],
        ),
        (
            MqttSettings(url="mqtt://u:p@h", password="p"),
            [Broken("mqtt.password", either.format("mqtt.url"), ("mqtt.url",))],
        ),
        (
            MqttSettings(url="mqtt://u:p@h", password="p", password_file=path),
            [
                Broken(
                    "mqtt.password_file",
                    either.format("mqtt.password and mqtt.url"),
                    ("mqtt.password", "mqtt.url"),
                )
            ],
        ),
        (
            MqttSettings(url="mqtt://u@h", username="v"),
            [
                Broken(
                    "mqtt.username",
                    "a user stands in mqtt.url too; expected one of the two",
                    ("mqtt.url",),
                )
            ],
        ),
        (MqttSettings(url="mqtt://u@h", password="p"), []),
        (
            MqttSettings(password="p"),
            [Broken("mqtt.password", alone, ("mqtt.username", "mqtt.protocol"))],
        ),
        (MqttSettings(password="p", protocol="5"), []),
        (MqttSettings(ca_file=path), [Broken("mqtt.ca_file", no_tls, ("mqtt.url",))]),
        (MqttSettings(url=mqtts, ca_file=path, cert_file=path), []),
        (
            MqttSettings(url=mqtts, key_file=path),
            [Broken("mqtt.key_file", "a key needs its certificate; expected mqtt.cert_file")],
        ),
        (
            MqttSettings(url=mqtts, ca_file=f"{path}.pem"),
            [Broken("mqtt.ca_file", "no such file or directory; expected a readable file")],
        ),
        (
            MqttSettings(username="u", password_file=str(tmp_path)),
            [Broken("mqtt.password_file", "it is a directory; expected a readable file")],
        ),
        (
            MqttSettings(username="u", password_file="a\0"),
            [Broken("mqtt.password_file", "a path has no NUL character; expected a readable file")],
        ),
    ]
    for mqtt, expected in cases:
        assert broken(mqtt=mqtt) == expected


@pytest.mark.parametrize(
    "bind",
    [
        "127.0.0.1:8000",
        "0.0.0.0:0",
        "localhost:65535",
        "gateway.example.com:80",
        "[::1]:8000",
        "[fe80::1%eth0]:8000",
        "unix:/run/tracker.sock",
        "unix:relative.sock",
    ],
)
def test_addresses_to_listen_on(bind: str) -> None:
    assert bind_problem(bind) is None


@pytest.mark.parametrize(
    ("bind", "problem"),
    [
        ("", f'"" {ADDRESS}'),
        ("8000", f'"8000" {ADDRESS}'),
        (":8000", f'":8000" {ADDRESS}'),
        ("127.0.0.1", f'"127.0.0.1" {ADDRESS}'),
        ("127.0.0.1:65536", f'"127.0.0.1:65536" {ADDRESS}'),
        ("127.0.0.1:http", f'"127.0.0.1:http" {ADDRESS}'),
        ("::1:8000", f'"::1:8000" {ADDRESS}'),
        ("http://127.0.0.1:8000", f'"http://127.0.0.1:8000" {ADDRESS}'),
        ("127.0.0.1:٣", f'"127.0.0.1:٣" {ADDRESS}'),
        ("fd://3", f'"fd://3" {ADDRESS}'),
        ("unix:", '"unix:" names no path; expected unix:path'),
        (
            f"unix:/{'x' * 107}",
            f'"unix:/{"x" * 73}…" is too long; expected 107 bytes at most',
        ),
    ],
)
def test_what_is_no_address(bind: str, problem: str) -> None:
    assert bind_problem(bind) == problem
    assert broken(http=HttpSettings(bind=("127.0.0.1:1", bind))) == [Broken("http.bind", problem)]


@pytest.mark.parametrize(
    "origin",
    ["*", "https://map.example.com", "http://localhost:3000", "http://[::1]:3000", "app://local"],
)
def test_origins(origin: str) -> None:
    assert broken(api=ApiSettings(cors_origins=(origin,))) == []


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "map.example.com",
        "https://map.example.com/",
        "https://Map.example.com",
        "https://*.example.com",
        "null",
        "https://user@example.com",
        "https://example.com\n",
    ],
)
def test_what_is_no_origin(origin: str) -> None:
    assert broken(api=ApiSettings(cors_origins=("*", origin))) == [
        Broken("api.cors_origins", f"{quoted(origin)} {ORIGIN}")
    ]


def make_certificate(folder: Path, name: str, *more: str) -> tuple[str, str]:
    certificate, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", "/CN=localhost", "-keyout", key, "-out", certificate),
            *(more or ("-nodes",)),
        ],
        check=True,
        capture_output=True,
        timeout=20,
    )
    return certificate, key


def test_the_rules_of_http(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "one")
    _, other_key = make_certificate(tmp_path, "other")
    _, locked_key = make_certificate(tmp_path, "locked", "-passout", "pass:hunter2")
    text = tmp_path / "text"
    text.write_text("no certificate")

    def beside(name: str, other: str) -> Broken:
        problem = f"it has no effect alone; expected http.{other} beside it"
        return Broken(f"http.{name}", problem, (f"http.{other}",))

    def not_loaded(reason: str) -> Broken:
        problem = f"certificate and key cannot be loaded: {reason}"
        return Broken("http.certfile", problem, ("http.keyfile", "http.keyfile_password"))

    cases: list[tuple[HttpSettings, list[Broken]]] = [
        (
            HttpSettings(bind=()),
            [Broken("http.bind", "expected at least one address to listen on")],
        ),
        (HttpSettings(root_path="/fleet"), []),
        (
            HttpSettings(root_path="fleet"),
            [Broken("http.root_path", "expected a path that begins with /, or nothing")],
        ),
        (
            HttpSettings(alpn_protocols=("h2", "h3")),
            [Broken("http.alpn_protocols", '"h3" is not served; expected "h2" and "http/1.1"')],
        ),
        (
            HttpSettings(alpn_protocols=()),
            [Broken("http.alpn_protocols", 'expected "h2", "http/1.1" or both')],
        ),
        (HttpSettings(certfile=certificate), [beside("certfile", "keyfile")]),
        (HttpSettings(keyfile=key), [beside("keyfile", "certfile")]),
        (HttpSettings(keyfile_password="x"), [beside("keyfile_password", "keyfile")]),
        (HttpSettings(ca_certs=certificate), [beside("ca_certs", "certfile")]),
        (HttpSettings(certfile=certificate, keyfile=key, ca_certs=certificate), []),
        (
            HttpSettings(certfile=certificate, keyfile=f"{key}s"),
            [Broken("http.keyfile", "no such file or directory; expected a readable file")],
        ),
        (
            HttpSettings(certfile=certificate, keyfile=other_key),
            [not_loaded("key values mismatch")],
        ),
        (HttpSettings(certfile=str(text), keyfile=key), [not_loaded("not in PEM format")]),
        (
            HttpSettings(certfile=certificate, keyfile=key, ca_certs=str(text)),
            [Broken("http.ca_certs", "certificates cannot be loaded: no certificate or crl found")],
        ),
        (
            HttpSettings(certfile=certificate, keyfile=key, ciphers="none-such"),
            [
                Broken(
                    "http.ciphers",
                    "OpenSSL knows no such cipher; expected a list as in its manual",
                )
            ],
        ),
    ]
    for http, expected in cases:
        assert broken(http=http) == expected

    # Without the password OpenSSL must not ask the terminal; what it says differs by version.
    locked = HttpSettings(certfile=certificate, keyfile=locked_key)
    assert [(rule.key, rule.beside) for rule in broken(http=locked)] == [
        ("http.certfile", ("http.keyfile", "http.keyfile_password"))
    ]


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("plain", '"plain"'),
        ('say "✅"\n', '"say \\"✅\\"\\n"'),
        ("\x1b[31m\x7f\x9b\u2028", '"\\u001b[31m\\u007f\\u009b\\u2028"'),
        ("\udc80", '"\\\\udc80"'),
        ("x" * 81, f'"{"x" * 79}…"'),
    ],
)
def test_quoted_text_stays_on_its_line(text: str, literal: str) -> None:
    assert quoted(text) == literal
