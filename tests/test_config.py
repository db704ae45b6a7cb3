"""Where values come from, which one wins, and what a user is told when one is wrong."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable
from pathlib import Path

import hypercorn.config
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.cli import render
from tracker.config import DEFAULT, LEAVES, LoadedSettings, SettingsError, load_settings, value_of
from tracker.hypercorn_keys import IDLE_KEYS, REFUSED_KEYS, SILENT_VALUES
from tracker.settings import HttpSettings, Settings


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(**sources: object) -> list[str]:
    arguments: dict[str, object] = {"environ": {}} | sources
    with pytest.raises(SettingsError) as caught:
        load_settings(**arguments)  # type: ignore[arg-type]  # as the caller has them
    return list(caught.value.problems)


def environment_problems(**environ: str) -> list[str]:
    return problems(environ=environ)


def test_without_any_source_there_are_the_defaults() -> None:
    loaded = load_settings(environ={"PATH": "/bin", "tracker_mqtt__qos": "7"})
    assert loaded == LoadedSettings(Settings(), dict.fromkeys(LEAVES, DEFAULT), ())


SOURCES = ("tracker.toml", "hypercorn.toml", "TRACKER_HTTP__BIND", "--bind")


@pytest.mark.parametrize(
    "present",
    [
        present
        for size in range(len(SOURCES) + 1)
        for present in itertools.combinations(SOURCES, size)
    ],
)
def test_the_last_source_that_has_a_value_wins(present: tuple[str, ...]) -> None:
    port = {source: 1001 + number for number, source in enumerate(SOURCES)}
    if "tracker.toml" in present:
        Path("tracker.toml").write_text('[http]\nbind = ["a:1001"]\nbacklog = 7\n')
    if "hypercorn.toml" in present:
        Path("hypercorn.toml").write_text('bind = "a:1002"\n')
    loaded = load_settings(
        environ={"TRACKER_HTTP__BIND": "a:1003"} if "TRACKER_HTTP__BIND" in present else {},
        flags={"--bind": ("a:1004",) if "--bind" in present else ()},
    )
    if present:
        assert loaded.settings.http.bind == (f"a:{port[present[-1]]}",)
        assert loaded.sources["http.bind"] == present[-1]
    else:
        assert loaded.settings.http.bind == HttpSettings().bind
        assert loaded.sources["http.bind"] == DEFAULT
    # Precedence is by key, not by file: nothing else of the first file is lost.
    assert loaded.settings.http.backlog == (7 if "tracker.toml" in present else 4096)


def test_every_flag_has_its_setting() -> None:
    loaded = load_settings(
        environ={},
        flags={
            "--mqtt-url": "mqtt://broker",
            "--topic": ("a", "b"),
            "--qos": 0,
            "--bind": ("unix:x",),
            "--log-level": "debug",
            "--log-format": None,
        },
    )
    assert {key: source for key, source in loaded.sources.items() if source != DEFAULT} == {
        "mqtt.url": "--mqtt-url",
        "mqtt.topics": "--topic",
        "mqtt.qos": "--qos",
        "http.bind": "--bind",
        "log.level": "--log-level",
    }
    assert loaded.settings.mqtt.topics == ("a", "b")


def test_named_files_are_read_instead_of_the_usual_ones(tmp_path: Path) -> None:
    Path("tracker.toml").write_text("[mqtt]\nqos = 1\n")
    Path("hypercorn.toml").write_text("backlog = 1\n")
    named, http = tmp_path / "named.toml", tmp_path / "http.toml"
    named.write_bytes(b"\xef\xbb\xbf[mqtt]\nkeepalive_s = 20\n")  # a byte order mark
    http.write_text("keep_alive_timeout = 3\n")
    loaded = load_settings(environ={}, config_file=named, hypercorn_file=http)
    assert {key: source for key, source in loaded.sources.items() if source != DEFAULT} == {
        "mqtt.keepalive_s": str(named),
        "http.keep_alive_timeout": str(http),
    }


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("TRACKER_MQTT__QOS", "2", 2),
        ("TRACKER_MQTT__PROTOCOL", "5", "5"),
        ("TRACKER_MQTT__TOPICS", "a/#, b", ("a/#", "b")),
        ("TRACKER_MQTT__TOPICS", '["a,b", "c"]', ("a,b", "c")),
        ("TRACKER_HTTP__BIND", "[::1]:8000,127.0.0.1:0", ("[::1]:8000", "127.0.0.1:0")),
        ("TRACKER_API__CORS_ORIGINS", "", ()),
        ("TRACKER_API__CORS_ORIGINS", "[]", ()),
        ("TRACKER_API__DEVICES", "true", True),
        ("TRACKER_API__PAGE", "false", False),
        ("TRACKER_STREAM__DRAIN_S", "0.5", 0.5),
        ("TRACKER_STREAM__DRAIN_S", "1e1", 10.0),
        ("TRACKER_MQTT__CLIENT_ID", "null", None),
        ("TRACKER_MQTT__CLIENT_ID", "", None),
        ("TRACKER_MQTT__CLIENT_ID", '"7"', '"7"'),
        ("TRACKER_MQTT__CLIENT_ID", "7", "7"),
    ],
)
def test_text_from_the_environment(variable: str, text: str, value: object) -> None:
    loaded = load_settings(environ={variable: text})
    key = variable.removeprefix("TRACKER_").lower().replace("__", ".")
    assert value_of(loaded.settings, key) == value
    assert loaded.sources[key] == variable


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("MQTT__QOS", "3", 'mqtt.qos is "3"; expected 0, 1 or 2'),
        ("MQTT__QOS", "٢", 'mqtt.qos is "٢"; expected 0, 1 or 2'),
        ("MQTT__QOS", "", 'mqtt.qos is ""; expected 0, 1 or 2'),
        ("MQTT__PROTOCOL", "4", 'mqtt.protocol is "4"; expected "3.1.1" or "5"'),
        ("API__DEVICES", "True", 'api.devices is "True"; expected true or false'),
        ("API__DEVICES", "1", 'api.devices is "1"; expected true or false'),
        ("HTTP__BACKLOG", "0", "http.backlog is 0; expected a whole number, 1 or more"),
        ("HTTP__BACKLOG", "1_0", 'http.backlog is "1_0"; expected a whole number, 1 or more'),
        ("HTTP__BACKLOG", "1.0", 'http.backlog is "1.0"; expected a whole number, 1 or more'),
        (
            "MQTT__KEEPALIVE_S",
            "65536",
            "mqtt.keepalive_s is 65536; expected a whole number from 1 to 65535",
        ),
        (
            "STREAM__PING_S",
            "1m",
            'stream.ping_s is "1m"; expected a number above 0, 1000000 at most',
        ),
        (
            "STREAM__PING_S",
            "inf",
            'stream.ping_s is "inf"; expected a number above 0, 1000000 at most',
        ),
        (
            "STREAM__PING_S",
            "-1",
            "stream.ping_s is -1.0; expected a number above 0, 1000000 at most",
        ),
        ("MQTT__TOPICS", "[1]", "mqtt.topics is [1]; expected a list of strings"),
        ("MQTT__TOPICS", "[a]", 'mqtt.topics is "[a]"; expected a list of strings'),
        ("MQTT__TOPICS", "a,", 'mqtt.topics is ["a", ""]; "" is no topic filter: it is empty'),
    ],
)
def test_text_that_is_not_what_was_expected(variable: str, text: str, problem: str) -> None:
    variable = f"TRACKER_{variable}"
    assert environment_problems(**{variable: text}) == [f"{variable}: {problem}"]


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ("TRACKER_MQTT__ULR", "not a setting; did you mean TRACKER_MQTT__URL?"),
        ("TRACKER_MQTT_URL", "not a setting; did you mean TRACKER_MQTT__URL?"),
        ("TRACKER_mqtt__url", "not a setting"),
        ("TRACKER_PORT", "not a setting"),
        ("TRACKER_", "not a setting"),
    ],
)
def test_unknown_variables(variable: str, problem: str) -> None:
    assert environment_problems(**{variable: "8000"}) == [f"{variable}: {problem}"]


def test_what_kubernetes_says_about_a_service_called_tracker_is_no_mistake() -> None:
    loaded = load_settings(
        environ={
            "TRACKER_SERVICE_HOST": "10.0.0.1",
            "TRACKER_SERVICE_PORT": "8000",
            "TRACKER_SERVICE_PORT_HTTP": "8000",
            "TRACKER_PORT": "tcp://10.0.0.1:8000",
            "TRACKER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "TRACKER_PORT_8000_TCP_ADDR": "10.0.0.1",
            "TRACKER_GATEWAY_SERVICE_HOST": "10.0.0.2",
            "TRACKER_GATEWAY_PORT": "tcp://10.0.0.2:8000",
        }
    )
    assert loaded.settings == Settings()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[mqtt]\nulr = 1", "mqtt.ulr is not a setting; did you mean mqtt.url?"),
        ("[mqtt]\n'a b' = 1", 'mqtt."a b" is not a setting'),
        ("[mqttt]\nurl = 1", "mqttt is not a setting; did you mean mqtt?"),
        ("[fleet]\nurl = 1", "fleet is not a setting"),
        ("mqtt = 'mqtt://u:hunter2@h'", "mqtt is not a table; expected [mqtt]"),
        ("[mqtt]\nurl = ['mqtt://u:hunter2@h']", "mqtt.url is ***; expected a string"),
        ("[mqtt]\npassword = 12345", "mqtt.password is ***; expected a string"),
        ("[mqtt]\nqos = true", "mqtt.qos is true; expected 0, 1 or 2"),
        ("[mqtt]\nqos = '1'", 'mqtt.qos is "1"; expected 0, 1 or 2'),
        ("[mqtt]\ntopics = 'a'", 'mqtt.topics is "a"; expected a list of strings'),
        ("[mqtt]\nclient_id = 2024-12-11", "mqtt.client_id is 2024-12-11; expected a string"),
        ("[mqtt]\nclient_id = {a = 1}", "mqtt.client_id is a table; expected a string"),
        (
            "[stream]\nping_s = nan",
            "stream.ping_s is nan; expected a number above 0, 1000000 at most",
        ),
        (f"[mqtt]\nqos = '{'x' * 200}'", f'mqtt.qos is "{"x" * 118}…; expected 0, 1 or 2'),
        (
            "[mqtt",
            "expected TOML: expected ']' at the end of a table declaration (at end of document)",
        ),
    ],
)
def test_mistakes_in_the_file(text: str, problem: str) -> None:
    Path("tracker.toml").write_text(text)
    assert problems() == [f"tracker.toml: {problem}"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"[mqtt]\nclient_id = '\xf1'\n")
    assert problems(
        config_file=tmp_path / "none.toml", hypercorn_file=Path("missing/hypercorn.toml")
    ) == [f"{tmp_path}/none.toml: no such file", "missing/hypercorn.toml: no such file"]
    assert problems(config_file=tmp_path, hypercorn_file=tmp_path / "latin.toml") == [
        f"{tmp_path}: is a directory; expected a readable file",
        f"{tmp_path}/latin.toml: expected TOML in UTF-8",
    ]
    assert problems(config_file=Path("a\0b")) == [r'"a\u0000b": a path has no NUL character']


def test_everything_that_is_wrong_is_told_at_once() -> None:
    Path("tracker.toml").write_text(
        "[mqtt]\nulr = 'x'\nqos = 7\nclean_session = false\n[http]\nbind = ['8000']\n"
    )
    Path("hypercorn.toml").write_text("workers = 2\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(
            environ={"TRACKER_MQTT__PASWORD": "hunter2", "TRACKER_MQTT__PASSWORD": "hunter2"},
            flags={"--mqtt-url": "mqtt://user:hunter3@broker"},
        )
    assert str(caught.value) == (
        "7 problems in the settings:\n"
        "  tracker.toml: mqtt.ulr is not a setting; did you mean mqtt.url?\n"
        "  hypercorn.toml: workers is refused: the gateway is one process; start one more for "
        "each, with another bind\n"
        "  TRACKER_MQTT__PASWORD: not a setting; did you mean TRACKER_MQTT__PASSWORD?\n"
        "  tracker.toml: mqtt.qos is 7; expected 0, 1 or 2\n"
        '  TRACKER_MQTT__PASSWORD: mqtt.password is "***"; a password stands in mqtt.url too; '
        'expected one of them; mqtt.url is "mqtt://user:***@broker" (--mqtt-url)\n'
        "  tracker.toml: mqtt.clean_session is false; a session that outlives the connection "
        "needs an identifier; expected mqtt.client_id; mqtt.client_id is not set (default)\n"
        '  tracker.toml: http.bind is ["8000"]; "8000" is no address; expected host:port, '
        "[ipv6]:port or unix:path"
    )


def test_a_rule_is_silent_about_a_value_of_the_wrong_type() -> None:
    Path("tracker.toml").write_text("[mqtt]\nclean_session = false\nclient_id = 7\n")
    assert problems() == ["tracker.toml: mqtt.client_id is 7; expected a string"]


def test_the_keys_of_hypercorn() -> None:
    Path("hypercorn.toml").write_text(
        'bind = ["127.0.0.1:1", "unix:x"]\nworkers = 1\nworker_class = "trio"\n'
        'accesslog = "-"\nloglevel = "DEBUG"\nssl_handshake_timeout = 5\n'
    )
    loaded = load_settings(environ={})
    assert loaded.settings.http == HttpSettings(
        bind=("127.0.0.1:1", "unix:x"), ssl_handshake_timeout=5.0
    )
    assert loaded.warnings == (
        "hypercorn.toml: without effect here, since the gateway sees to it itself: "
        "accesslog, loglevel",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bnd = 'a:1'", "bnd is not a setting of Hypercorn; did you mean bind?"),
        ("[http]\nbind = 'a:1'", "http is not a setting of Hypercorn"),
        ("quic_bind = 'a:1'", "quic_bind is refused: HTTP/3 is not served"),
        (
            "verify_mode = 'CERT_REQUIRED'",
            "verify_mode is refused: client certificates are not asked for; "
            "let a proxy in front do it",
        ),
        ("bind = 8000", "http.bind is 8000; expected a list of strings"),
        (
            "h11_max_incomplete_size = 65536",
            "http.h11_max_incomplete_size is 65536; expected a whole number from 1024 to 32768",
        ),
    ],
)
def test_mistakes_in_hypercorn_toml(text: str, problem: str) -> None:
    Path("hypercorn.toml").write_text(text)
    assert problems() == [f"hypercorn.toml: {problem}"]


def test_every_key_that_hypercorn_knows_is_provided_for() -> None:
    known = {
        name
        for name in dir(hypercorn.config.Config) + list(hypercorn.config.Config.__annotations__)
        if name == "logger_class"
        or not (name.startswith("_") or callable(getattr(hypercorn.config.Config, name, None)))
    } - {"log", "ssl_enabled"}
    ours = set(HttpSettings.__struct_fields__) | IDLE_KEYS | set(REFUSED_KEYS)
    assert known - ours == set()
    assert ours - known == {"read_head_timeout"}
    assert set(SILENT_VALUES) <= IDLE_KEYS | set(REFUSED_KEYS)
    assert IDLE_KEYS.isdisjoint(REFUSED_KEYS)


def test_the_example_in_the_repository_is_loaded_without_a_word() -> None:
    example = Path(__file__).parent.parent / "hypercorn.toml"
    loaded = load_settings(environ={}, hypercorn_file=example)
    assert loaded.settings == Settings()
    assert loaded.warnings == ()
    hypercorn.config.Config.from_toml(example)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=90).filter(
    lambda text: "\0" not in text
)


@given(client_id=WORDS, username=WORDS, topics=st.lists(WORDS, min_size=1, max_size=3))
def test_what_check_config_prints_loads_as_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory,
    client_id: str,
    username: str,
    topics: Iterable[str],
) -> None:
    topics = tuple(topic.replace("#", "_").replace("+", "_").replace("$", "_") for topic in topics)
    folder = tmp_path_factory.mktemp("config")
    settings = msgspec.structs.replace(
        Settings(),
        mqtt=msgspec.structs.replace(
            Settings().mqtt, client_id=client_id, username=username, topics=topics
        ),
    )
    text = render(LoadedSettings(settings, dict.fromkeys(LEAVES, DEFAULT)))
    assert set(tomllib.loads(text)) == {"mqtt", "stream", "http", "api", "log"}
    file = folder / "tracker.toml"
    file.write_text(text)
    loaded = load_settings(environ={}, config_file=file)
    assert loaded.settings == settings


SECRETS = st.text(
    st.characters(codec="ascii", categories=["L", "N"]), min_size=10, max_size=30
).map(lambda text: f"Zz{text}")


@given(
    secret=SECRETS,
    variable=st.sampled_from(
        [
            "TRACKER_MQTT__PASSWORD",
            "TRACKER_MQTT__PASSWRD",
            "TRACKER_PASSWORD",
            "TRACKER_HTTP__KEYFILE_PASSWORD",
        ]
    ),
    url=st.sampled_from(
        [
            "mqtt://user:{}@broker",
            "mqtt://user:{}",
            "mqtt://user:#{}@broker",
            "user:/{}@broker",
            "mqtt://user:{}@broker/x",
        ]
    ),
    key=st.sampled_from(["mqtt.password", "mqtt.pasword", "mqtt.password.x", "password", "mqtt"]),
    form=st.sampled_from(["'{}'", "['{}']", "{{a = '{}'}}", "{}", "'{}' x"]),
)
def test_no_secret_is_in_any_message(
    tmp_path_factory: pytest.TempPathFactory,
    secret: str,
    variable: str,
    url: str,
    key: str,
    form: str,
) -> None:
    file = tmp_path_factory.mktemp("config") / "tracker.toml"
    file.write_text(f"{key} = {form.format(secret)}\n")
    try:
        loaded = load_settings(
            environ={variable: secret},
            config_file=file,
            flags={"--mqtt-url": url.format(secret)},
        )
    except SettingsError as error:
        text = f"{error} {error!r}"
    else:
        text = f"{render(loaded)} {loaded!r}"
    assert secret not in text
