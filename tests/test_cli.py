"""The commands, by click's runner and as real processes: what they print, how they exit."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tracker.cli import main
from tracker.settings import Settings

DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in os.environ:
        if variable.startswith("TRACKER_"):
            monkeypatch.delenv(variable)


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env=env, prog_name="tracker")


def run_process(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracker", *arguments],
        env=os.environ | env,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


class FakeApp(types.ModuleType):
    """Stands where the gateway or the demo is imported from; notes what it was called with."""

    def __init__(self, name: str, exit_code: int) -> None:
        super().__init__(name)
        self.exit_code = exit_code
        self.calls: list[Any] = []

    def run(self, *settings: Settings, **options: object) -> int:
        self.calls.append(options or settings)
        return self.exit_code


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    fake = FakeApp("tracker.app", exit_code=3)
    monkeypatch.setitem(sys.modules, "tracker.app", fake)
    return fake


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    fake = FakeApp("tracker.demo", exit_code=0)
    monkeypatch.setitem(sys.modules, "tracker.demo", fake)
    return fake


def test_serve_takes_the_flags_that_scripts_rely_on(app: FakeApp, tmp_path: Path) -> None:
    (tmp_path / "tracker.toml").write_text("[stream]\ndrain_s = 1\n")
    (tmp_path / "http.toml").write_text("backlog = 5\n")
    result = run(
        "serve",
        *("--mqtt-url", "mqtt://user:pw@host:1883"),
        *("--topic", "trackers/#", "--topic", "$share/group/x"),
        *("--qos", "1"),
        *("--bind", "127.0.0.1:0"),
        *("--config", "tracker.toml"),
        *("--hypercorn-config", "http.toml"),
        *("--log-level", "debug"),
        *("--log-format", "json"),
    )
    assert (result.output, result.exit_code) == ("", 3)
    [(settings,)] = app.calls
    assert isinstance(settings, Settings)
    assert settings.mqtt.url == "mqtt://user:pw@host:1883"
    assert settings.mqtt.topics == ("trackers/#", "$share/group/x")
    assert settings.mqtt.qos == 1
    assert settings.http.bind == ("127.0.0.1:0",)
    assert settings.http.backlog == 5
    assert settings.stream.drain_s == 1.0
    assert settings.log.level == "debug"
    assert settings.log.format == "json"


def test_serve_without_anything(app: FakeApp) -> None:
    result = run("serve", env={"TRACKER_MQTT__URL": "mqtt://broker"})
    assert (result.output, result.exit_code) == ("", 3)
    defaults = Settings()
    [(settings,)] = app.calls
    assert settings.mqtt.url == "mqtt://broker"
    assert settings.http == defaults.http
    assert settings.log == defaults.log


def test_serve_refuses_wrong_settings(app: FakeApp) -> None:
    result = run("serve", "--topic", "trackers/#/x", "--bind", "8000")
    assert (result.stdout, result.exit_code) == ("", 2)
    assert result.stderr == (
        "Error: 2 problems in the settings:\n"
        '  --topic: mqtt.topics is ["trackers/#/x"]; "trackers/#/x" is no topic filter: # must be '
        "its last level, alone\n"
        '  --bind: http.bind is ["8000"]; "8000" is no address; expected host:port, [ipv6]:port '
        "or unix:path\n"
    )
    assert app.calls == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("serve", "--qos", "3"),
            "Invalid value for '--qos': '3' is not one of '0', '1', '2'.",
        ),
        (
            ("serve", "--log-format", "xml"),
            "Invalid value for '--log-format': 'xml' is not one of 'text', 'json'.",
        ),
        (("serve", "now"), "Got unexpected extra argument (now)"),
        (
            ("demo", "--speed", "0"),
            "Invalid value for --speed: 0.0 is no factor; expected a number above 0.",
        ),
        (
            ("demo", "--speed", "nan"),
            "Invalid value for --speed: nan is no factor; expected a number above 0.",
        ),
        (
            ("demo", "--bind", "8000"),
            'Invalid value for --bind: "8000" is no address; expected host:port, [ipv6]:port '
            "or unix:path.",
        ),
    ],
)
def test_a_wrong_command_line(
    arguments: tuple[str, ...], problem: str, app: FakeApp, demo: FakeApp
) -> None:
    result = run(*arguments)
    assert (result.stdout, result.exit_code) == ("", 2)
    assert result.stderr == (
        f"Usage: tracker {arguments[0]} [OPTIONS]\n"
        f"Try 'tracker {arguments[0]} --help' for help.\n\n"
        f"Error: {problem}\n"
    )
    assert app.calls == demo.calls == []


def test_demo(demo: FakeApp) -> None:
    assert run("demo").exit_code == 0
    assert run("demo", "--speed", "5", "--bind", "127.0.0.1:0", "--log-level", "info").output == ""
    assert demo.calls == [
        {"speed": 20.0, "bind": "127.0.0.1:8000", "log_level": "warning", "log_format": "text"},
        {"speed": 5.0, "bind": "127.0.0.1:0", "log_level": "info", "log_format": "text"},
    ]


def test_check_config(tmp_path: Path) -> None:
    (tmp_path / "tracker.toml").write_text(
        '[mqtt]\nusername = "gateway"\npassword = "hunter2"\n[api]\ndevices = true\n'
    )
    (tmp_path / "hypercorn.toml").write_text('bind = "[::1]:8000"\naccesslog = "-"\n')
    result = run(
        "check-config", "--qos", "1", env={"TRACKER_MQTT__URL": "mqtts://broker.example.com"}
    )
    assert result.exit_code == 0
    assert result.stderr == (
        "Warning: hypercorn.toml: without effect here, since the gateway sees to it itself: "
        "accesslog\n"
    )
    assert (
        result.stdout
        == """\
[mqtt]
url = "mqtts://broker.example.com"   # TRACKER_MQTT__URL
topics = ["trackers/#"]              # default
qos = 1                              # --qos
protocol = "3.1.1"                   # default
# client_id                          # not set, default
clean_session = true                 # default
username = "gateway"                 # tracker.toml
password = "***"                     # tracker.toml
# password_file                      # not set, default
# ca_file                            # not set, default
# cert_file                          # not set, default
# key_file                           # not set, default
keepalive_s = 60                     # default
connect_timeout_s = 10.0             # default
reconnect_min_s = 1.0                # default
reconnect_max_s = 30.0               # default
incoming_limit_messages = 50000      # default
incoming_limit_bytes = 67108864      # default

[stream]
buffer_messages = 100                # default
buffer_bytes = 1048576               # default
max_device_ids = 1000                # default
ping_s = 60.0                        # default
heartbeat_s = 20.0                   # default
stall_s = 10.0                       # default
drain_s = 2.0                        # default
client_message_bytes = 65536         # default
client_messages_per_s = 50           # default
coalesce_ms = 0.0                    # default
overflow = "drop_new"                # default
latest_after_overflows = 0           # default
history_messages = 100               # default
history_age_s = 900.0                # default
history_bytes = 67108864             # default
# history_file                       # not set, default

[http]
bind = ["[::1]:8000"]                # hypercorn.toml
backlog = 4096                       # default
# certfile                           # not set, default
# keyfile                            # not set, default
# keyfile_password                   # not set, default
# ca_certs                           # not set, default
ciphers = "ECDHE+AESGCM"             # default
alpn_protocols = ["h2", "http/1.1"]  # default
root_path = ""                       # default
keep_alive_timeout = 75.0            # default
keep_alive_max_requests = 1000       # default
ssl_handshake_timeout = 10.0         # default
read_head_timeout = 10.0             # default
h11_max_incomplete_size = 32768      # default

[api]
cors_origins = []                    # default
devices = true                       # tracker.toml
devices_limit = 100000               # default
connections = false                  # default
page = true                          # default
ready_grace_s = 30.0                 # default

[log]
level = "info"                       # default
format = "text"                      # default
queue_records = 10000                # default
"""
    )


def test_check_config_as_a_process() -> None:
    ended = run_process("check-config", TRACKER_MQTT__URL="mqtt://user:hunter2@broker")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert tomllib.loads(ended.stdout)["mqtt"]["url"] == "mqtt://user:***@broker"
    assert "hunter2" not in ended.stdout

    ended = run_process("check-config", "--config", "none.toml", TRACKER_MQTT__QOS="3")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "Error: 2 problems in the settings:\n"
        "  none.toml: no such file\n"
        '  TRACKER_MQTT__QOS: mqtt.qos is "3"; expected 0, 1 or 2\n'
    )


def test_what_was_set_is_shown_under_any_locale(tmp_path: Path) -> None:
    (tmp_path / "tracker.toml").write_text("[mqtt]\nclient_id = 'ñandú'\n", encoding="utf-8")
    ended = run_process("check-config", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ended.returncode == 0, ended.stderr


def test_serve_warns_in_the_format_of_the_log(tmp_path: Path) -> None:
    """As a process: the warning goes to the real stderr."""
    (tmp_path / "hypercorn.toml").write_text("loglevel = 'DEBUG'\n")
    code = (
        "import sys, types; app = types.ModuleType('tracker.app'); app.run = lambda settings: 7; "
        "sys.modules['tracker.app'] = app; from tracker.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "serve", "--log-format", "json"],
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (7, "")
    assert ended.stderr.endswith(
        '"level":"warning","logger":"tracker.cli","message":"hypercorn.toml: without effect here, '
        'since the gateway sees to it itself: loglevel"}\n'
    )


def test_version_and_help() -> None:
    ended = run_process("--version")
    assert (ended.returncode, ended.stdout) == (0, "tracker 0.1.0\n")
    ended = run_process("--help")
    assert ended.returncode == 0
    assert all(command in ended.stdout for command in ("serve", "demo", "check-config"))
    for command in ("serve", "demo", "check-config"):
        assert run(command, "--help").exit_code == 0
