"""What settings must fulfil beyond their types: syntax of a value, and values that need each other.

Each rule looks at a typed tree and yields what is broken; it knows nothing of where a value
came from. Broker and resolver have the last word on a topic filter or a host: what is refused
here is what can be known to fail without asking anybody.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from tracker.settings import HttpSettings, MqttSettings, Settings

MQTT_SCHEMES = ("mqtt", "mqtts", "ws", "wss")
TLS_SCHEMES = ("mqtts", "wss")

MQTT_STRING_LIMIT_BYTES = 65_535  # MQTT 3.1.1 §1.5.3
UNIX_PATH_LIMIT_BYTES = 107  # sun_path, less its terminating zero

_HOST = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
_BIND = re.compile(rf"{_HOST}:([0-9]{{1,5}})")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


class Broken(msgspec.Struct, frozen=True):
    """A rule that does not hold: the setting to name first, those it was seen together with."""

    key: str
    problem: str
    beside: tuple[str, ...] = ()


def broken_rules(settings: Settings) -> Iterator[Broken]:
    """Every rule that `settings` break, in the order of the tree."""
    yield from _mqtt(settings.mqtt)
    yield from _http(settings.http)
    for origin in settings.api.cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            yield Broken(
                "api.cors_origins",
                f"{quoted(origin)} is no origin; expected scheme://host[:port] as a browser "
                "sends it (lower case, no path), or *",
            )


def bind_problem(bind: str) -> str | None:
    """Why `bind` is not an address to listen on, or None."""
    if bind.startswith("unix:"):
        path = bind.removeprefix("unix:")
        if not path or "\0" in path:
            return f"{quoted(bind)} names no path; expected unix:path"
        if len(os.fsencode(path)) > UNIX_PATH_LIMIT_BYTES:
            return f"{quoted(bind)} is too long; expected {UNIX_PATH_LIMIT_BYTES} bytes at most"
        return None
    match = _BIND.fullmatch(bind)
    if match is None or int(match[1]) > 65_535:
        return f"{quoted(bind)} is no address; expected host:port, [ipv6]:port or unix:path"
    return None


def quoted(text: str, *, limit_chars: int | None = 80) -> str:
    """`text` as a TOML string on one line, fit for any terminal, cut at `limit_chars`."""
    if limit_chars is not None and len(text) > limit_chars:
        text = text[: limit_chars - 1] + "…"
    literal = msgspec.json.encode(text.encode("utf-8", "backslashreplace").decode()).decode()
    return re.sub(r"[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", literal)


def _mqtt(mqtt: MqttSettings) -> Iterator[Broken]:
    problem = _url_problem(mqtt.url)
    if problem is not None:
        yield Broken("mqtt.url", problem)
    else:
        yield from _mqtt_credentials(mqtt)
        if not mqtt.url.lower().startswith(tuple(f"{scheme}://" for scheme in TLS_SCHEMES)):
            for name in ("ca_file", "cert_file", "key_file"):
                if getattr(mqtt, name) is not None:
                    problem = (
                        "it has no effect without TLS; expected mqtts:// or wss:// in mqtt.url"
                    )
                    yield Broken(f"mqtt.{name}", problem, ("mqtt.url",))

    if not mqtt.topics:
        yield Broken("mqtt.topics", "expected at least one topic filter")
    for topic in mqtt.topics:
        problem = _topic_problem(topic)
        if problem is not None:
            yield Broken("mqtt.topics", f"{quoted(topic)} is no topic filter: {problem}")

    for name in ("client_id", "username"):
        text = getattr(mqtt, name)
        problem = None if text is None else _mqtt_string_problem(text)
        if problem is not None:
            yield Broken(f"mqtt.{name}", problem)
    if not mqtt.clean_session and not mqtt.client_id:
        problem = (
            "a session that outlives the connection needs an identifier; expected mqtt.client_id"
        )
        yield Broken("mqtt.clean_session", problem, ("mqtt.client_id",))

    if mqtt.reconnect_min_s > mqtt.reconnect_max_s:
        problem = "expected no more than mqtt.reconnect_max_s"
        yield Broken("mqtt.reconnect_min_s", problem, ("mqtt.reconnect_max_s",))

    if mqtt.key_file is not None and mqtt.cert_file is None:
        yield Broken("mqtt.key_file", "a key needs its certificate; expected mqtt.cert_file")
    yield from _files("mqtt", mqtt, ("password_file", "ca_file", "cert_file", "key_file"))


def _mqtt_credentials(mqtt: MqttSettings) -> Iterator[Broken]:
    url = urlsplit(mqtt.url)
    if url.username and mqtt.username is not None:
        problem = "a user stands in mqtt.url too; expected one of the two"
        yield Broken("mqtt.username", problem, ("mqtt.url",))
    passwords = [
        key
        for key, value in (
            ("mqtt.url", url.password),
            ("mqtt.password", mqtt.password),
            ("mqtt.password_file", mqtt.password_file),
        )
        if value is not None
    ]
    if len(passwords) > 1:
        first, *others = reversed(passwords)
        problem = f"a password stands in {' and '.join(others)} too; expected one of them"
        yield Broken(first, problem, tuple(others))
    elif passwords and not url.username and mqtt.username is None and mqtt.protocol != "5":
        # MQTT 3.1.1 §3.1.2.9: no user name flag, no password flag
        problem = 'a password without a user needs MQTT 5; expected mqtt.username, or protocol "5"'
        yield Broken(passwords[0], problem, ("mqtt.username", "mqtt.protocol"))


def _url_problem(text: str) -> str | None:
    expected = "expected mqtt://, mqtts://, ws:// or wss://, then [user:password@]host[:port]"
    if re.search(r"[\x00-\x20\x7f]", text):
        return f"a URL has no spaces and no control characters; {expected}"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = None, None
    if url is None or url.scheme not in MQTT_SCHEMES or not url.hostname or port == 0:
        return expected
    if not re.fullmatch(_HOST, url.netloc.rpartition("@")[2].removesuffix(f":{port}")):
        return f"its host is no name and no address; {expected}"
    if url.query or url.fragment or (url.path not in ("", "/") and not url.scheme.startswith("ws")):
        return (
            f"{expected} and nothing behind it but the path of ws:// and wss:// "
            "(in a password, write / as %2F, # as %23 and ? as %3F)"
        )
    return None


def _topic_problem(topic: str) -> str | None:
    """MQTT 3.1.1 §4.7, MQTT 5 §4.8.2."""
    if topic.startswith("$share/"):
        group, slash, shared = topic.removeprefix("$share/").partition("/")
        if not group or not slash or "+" in group or "#" in group:
            return "expected $share/group/filter, without + or # in the group"
        topic = shared
    if not topic:
        return "it is empty"
    levels = topic.split("/")
    if any("#" in level for level in levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "# must be its last level, alone"
    if any("+" in level and level != "+" for level in levels):
        return "+ must stand alone in its level"
    return _mqtt_string_problem(topic)


def _mqtt_string_problem(text: str) -> str | None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        return "expected valid UTF-8"
    if "\0" in text:
        return "expected no NUL character"
    if size_bytes > MQTT_STRING_LIMIT_BYTES:
        return f"expected at most {MQTT_STRING_LIMIT_BYTES} bytes"
    return None


def _http(http: HttpSettings) -> Iterator[Broken]:
    if not http.bind:
        yield Broken("http.bind", "expected at least one address to listen on")
    for bind in http.bind:
        problem = bind_problem(bind)
        if problem is not None:
            yield Broken("http.bind", problem)
    if http.root_path and not re.fullmatch(r"/[^\x00-\x20\x7f?#]*", http.root_path):
        yield Broken("http.root_path", "expected a path that begins with /, or nothing")
    for protocol in http.alpn_protocols:
        if protocol not in ("h2", "http/1.1"):
            problem = f'{quoted(protocol)} is not served; expected "h2" and "http/1.1"'
            yield Broken("http.alpn_protocols", problem)
    if not http.alpn_protocols:
        yield Broken("http.alpn_protocols", 'expected "h2", "http/1.1" or both')

    unreadable = list(_files("http", http, ("certfile", "keyfile", "ca_certs")))
    yield from unreadable
    if http.certfile is not None and http.keyfile is not None:
        if not unreadable:
            yield from _tls(http, http.certfile, http.keyfile)
        return
    # Hypercorn would serve in the clear, silently.
    for name, other in (
        ("certfile", "keyfile"),
        ("keyfile", "certfile"),
        ("keyfile_password", "keyfile"),
        ("ca_certs", "certfile"),
    ):
        if getattr(http, name) is not None and getattr(http, other) is None:
            problem = f"it has no effect alone; expected http.{other} beside it"
            yield Broken(f"http.{name}", problem, (f"http.{other}",))


def _tls(http: HttpSettings, certfile: str, keyfile: str) -> Iterator[Broken]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(http.ciphers)
    except (ssl.SSLError, ValueError):
        yield Broken(
            "http.ciphers", "OpenSSL knows no such cipher; expected a list as in its manual"
        )
    try:
        # Never None: OpenSSL would ask the terminal.
        context.load_cert_chain(certfile, keyfile, http.keyfile_password or "")
    except (OSError, ValueError) as error:
        problem = f"certificate and key cannot be loaded: {_ssl_reason(error)}"
        yield Broken("http.certfile", problem, ("http.keyfile", "http.keyfile_password"))
    if http.ca_certs is not None:
        try:
            context.load_verify_locations(http.ca_certs)
        except (OSError, ValueError) as error:
            problem = f"certificates cannot be loaded: {_ssl_reason(error)}"
            yield Broken("http.ca_certs", problem)


def _ssl_reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else "not in PEM format"


def _files(
    branch: str, settings: MqttSettings | HttpSettings, names: tuple[str, ...]
) -> Iterator[Broken]:
    for name in names:
        path = getattr(settings, name)
        problem = None if path is None else _file_problem(path)
        if problem is not None:
            yield Broken(f"{branch}.{name}", f"{problem}; expected a readable file")


def _file_problem(path: str) -> str | None:
    # Not opened: the file may be a pipe (`<(pass show broker)`), which gives what it has once.
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return (error.strerror or "unknown error").lower()
    except ValueError:
        return "a path has no NUL character"
    if stat.S_ISDIR(mode):
        return "it is a directory"
    return None if os.access(path, os.R_OK) else "permission denied"
