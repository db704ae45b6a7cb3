"""docs/operations.md and what lies in docs/deploy, against the code and the real programs."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import shlex
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
import yaml
from click.testing import CliRunner
from msgspec import inspect

from tests.docs.log_templates import diagnoses, logged
from tests.fleet import next_heartbeat, next_message, open_fleet
from tests.mosquitto import Mosquitto, free_port
from tests.nginx import run_nginx
from tests.peer import handshake, request_head
from tests.snippets import ROOT, Document
from tests.tools import program
from tracker.cli import main
from tracker.config import BRANCHES, LEAVES, load_settings, shown
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.stream import WRITE_LIMIT_BYTES
from tracker.log_lines import JsonFormatter, TextFormatter
from tracker.logs import QUEUE_LIMIT_BYTES
from tracker.settings import HttpSettings, Settings, StreamSettings

OPERATIONS = Document("docs/operations.md")
DEPLOY = ROOT / "docs" / "deploy"
DEADLINE_S = 20.0

#: Which test runs which fence.
RUN_BY = {
    "Containers/sh": "test_compose_commands",
    "nginx/nginx": "test_nginx",
    "The log/text": "test_log_formats",
    "The log/json": "test_log_formats",
}

pytestmark = pytest.mark.mosquitto


def test_every_fence_is_run() -> None:
    assert set(OPERATIONS.fences) == set(RUN_BY)
    assert set(RUN_BY.values()) <= set(globals())


# Settings

UNITS = {"_s": "s", "_ms": "ms", "_timeout": "s", "_bytes": "bytes", "_messages": "messages"}
OTHER_UNITS = {
    "max_device_ids": "ids",
    "client_messages_per_s": "1/s",
    "backlog": "connections",
    "keep_alive_max_requests": "requests",
    "h11_max_incomplete_size": "bytes",
    "devices_limit": "devices",
    "queue_records": "records",
}


def unit_of(name: str) -> str:
    """What a setting's name says of its unit."""
    return OTHER_UNITS.get(name) or next((u for end, u in UNITS.items() if name.endswith(end)), "")


@pytest.mark.parametrize("branch", BRANCHES)
def test_settings(branch: str) -> None:
    documented = [
        (key.strip("`"), default.strip("`"), unit)
        for key, default, unit, _ in OPERATIONS.rows(branch)
    ]
    settings = getattr(Settings(), branch)
    assert documented == [
        (name, shown(key, getattr(settings, name)), unit_of(name))
        for key in LEAVES
        if key.startswith(f"{branch}.")
        for name in [key.removeprefix(f"{branch}.")]
    ]


def test_choices_are_named() -> None:
    for branch in BRANCHES:
        for key, _, _, meaning in OPERATIONS.rows(branch):
            kind = inspect.type_info(LEAVES[f"{branch}.{key.strip('`')}"].type)
            if isinstance(kind, inspect.LiteralType):
                assert all(str(value) in meaning for value in kind.values), key


def test_names_of_settings_in_the_text() -> None:
    spans = OPERATIONS.code_spans()
    named = {span for span in spans if re.fullmatch(rf"({'|'.join(BRANCHES)})\.\w+", span)}
    assert named <= set(LEAVES)
    short = {"buffer_messages", "drain_s"}
    assert short <= {key.partition(".")[2] for key in LEAVES}


def test_a_setting_in_the_environment() -> None:
    assignment = next(span for span in OPERATIONS.code_spans() if span.startswith("TRACKER_STREAM"))
    name, _, value = assignment.partition("=")
    assert load_settings(environ={name: value}).settings.stream.drain_s == float(value)


def test_exit_codes() -> None:
    codes = [code for code, _ in OPERATIONS.rows("What there is to run")]
    assert codes == ["0", "1", "2"]
    assert CliRunner().invoke(main, ["serve", "--bind", "nowhere"]).exit_code == 2


def test_numbers_of_the_text() -> None:
    text = " ".join(OPERATIONS.text.split())
    assert f"one write of {WRITE_LIMIT_BYTES // 1024} KiB" in text
    assert f"{QUEUE_LIMIT_BYTES // 1024**2} MiB for log lines" in text


# Metrics


async def test_metrics(broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        exposition = (await fleet.request("/metrics")).body.decode()
    types = dict(re.findall(r"^# TYPE (tracker_\w+) (\w+)$", exposition, re.MULTILINE))
    rows = [row for row in OPERATIONS.rows("Metrics") if len(row) == 4]
    assert [(name.strip("`"), kind) for name, kind, _, _ in rows] == list(types.items())
    for name, _, label, meaning in rows:
        labels = set(re.findall(rf"^{name.strip('`')}\{{(\w+)=", exposition, re.MULTILINE))
        # a transport that nobody has used yet has no series
        assert labels in ({label.strip("`")} - {""}, set()), name
        for reasons in {
            "tracker_closed_total": CloseReason,
            "tracker_messages_dropped_total": Drop,
        }:
            if name.strip("`") == reasons:
                enum: Any = CloseReason if "closed" in name else Drop
                assert re.findall(r"`(\w+)`", meaning) == [reason.value for reason in enum]


async def test_alerts_name_metrics_that_exist(broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        exposition = (await fleet.request("/metrics")).body.decode()
    names = set(re.findall(r"^(\w+)[ {]", exposition, re.MULTILINE))
    expressions = [row[0] for row in OPERATIONS.rows("Metrics") if len(row) == 2]
    assert len(expressions) == 7
    for expression in expressions:
        assert set(re.findall(r"(?:tracker|process)_\w+", expression)) <= names


# The log


def test_log_formats() -> None:
    record = logging.makeLogRecord(
        {
            "name": "tracker.ingest",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "Cola llena para device_id 0848086072. "
            "Aplicando backpressure (mensaje descartado)",
            "created": 1_733_913_000.123,
        }
    )
    assert OPERATIONS.fence("The log/text") == f"{TextFormatter().format(record)}\n"
    assert OPERATIONS.fence("The log/json") == f"{JsonFormatter().format(record)}\n"


def _first_column(heading: str, head: str = "") -> set[str]:
    spans: set[str] = set()
    for row in OPERATIONS.rows(heading):
        spans |= set(re.findall(r"`([^`]+)`", row[0]))
    return spans - {head}


def _cause(template: str) -> str:
    """A diagnosis without its advice."""
    cause, _, advice = template.partition("; ")
    return template if cause.strip("…") == "" and advice else cause


def test_every_diagnosis_is_explained() -> None:
    refusals = {
        f"the broker refused the connection: {text}"
        for text in diagnoses("mqtt/diagnosis.py", ("_REFUSALS",))
    }
    connects = diagnoses("mqtt/diagnosis.py", ("explain_connect",))
    losses = diagnoses("mqtt/diagnosis.py", ("explain_loss", "_DISCONNECTS"))
    expected = {_cause(template) for template in refusals | connects | losses}
    # made in link.py, or put together from the sentences above
    expected |= {
        "the broker refused the subscription to …",
        "the broker closed it, … times in a row or more",
        "the broker, or something on the way, closed it",
    }
    expected -= {"the broker refused the connection: …"}
    assert _first_column("The way to the broker") == expected


def test_sentences_of_the_link_are_those_of_its_source() -> None:
    source = (ROOT / "tracker/mqtt/link.py").read_text()
    for sentence in (
        "the broker refused the subscription to ",
        " times in a row or more; another client",
        "MQTT: cannot use ",
        "MQTT: connection to ",
        "MQTT: the broker refused a part of the subscription, ",
    ):
        assert sentence in source


def test_every_loud_line_is_explained() -> None:
    explained = _first_column("Everything else")
    explained -= {
        # not a template of a log call: see the tests before and after
        "MQTT: the broker refused a part of the subscription, …",
        "Cola llena para device_id …. Aplicando backpressure (mensaje descartado)",
        "cannot listen on …: …",
        "…: without effect here, since the gateway sees to it itself: …",
        # a record of its own making
        "… log records were dropped: they came faster than stderr took them",
    }
    lines = {_compact(line) for line in logged()}
    heads = {line: {known for known in explained if _is_head(known, line)} for line in lines}
    assert {line for line, known in heads.items() if not known} == set()
    assert explained == set().union(*heads.values())


def _compact(template: str) -> str:
    return template.replace("(……)", "(…)")


def _is_head(known: str, line: str) -> bool:
    return line.startswith(known.rstrip("…").rstrip()) and len(known) > 4


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("cannot listen on ", "server/sockets.py"),
        (": without effect here, since the gateway sees to it itself: ", "config.py"),
        (" log records were dropped: they came faster than stderr took them", "logs.py"),
        ("Cola llena para device_id ", "domain/notices.py"),
    ],
)
def test_other_lines_are_those_of_the_source(line: str, module: str) -> None:
    assert line in (ROOT / "tracker" / module).read_text(encoding="utf-8")
    assert any(line.strip() in span for span in OPERATIONS.code_spans())


# Deployment


def test_systemd_unit(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", package="systemd")
    text = (DEPLOY / "tracker.service").read_text()
    command = "/srv/tracker/bin/tracker"
    assert text.count(f"ExecStart={command} serve") == 1
    unit = tmp_path / "tracker.service"
    unit.write_text(
        text.replace(f"ExecStart={command}", f"ExecStart={program('true', package='coreutils')}")
    )
    checked = subprocess.run(
        [analyze, "verify", unit], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_systemd_unit_fits_the_settings(tmp_path: Path) -> None:
    unit = dict(
        line.split("=", 1)
        for line in (DEPLOY / "tracker.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    (tmp_path / "mqtt-password").write_text("secret\n")
    name, _, value = unit["Environment"].replace("%d", str(tmp_path)).partition("=")
    loaded = load_settings(environ={name: value, "TRACKER_MQTT__USERNAME": "gateway"})
    assert loaded.settings.mqtt.password_file == str(tmp_path / "mqtt-password")
    assert int(unit["TimeoutStopSec"]) > loaded.settings.stream.drain_s + 5
    assert unit["RestartPreventExitStatus"] == "2"
    arguments = shlex.split(unit["ExecStart"])[1:]
    (tmp_path / "tracker.toml").write_text("")
    arguments = [argument.replace("/etc/tracker", str(tmp_path)) for argument in arguments]
    assert CliRunner().invoke(main, ["check-config", *arguments[1:]]).exit_code == 0


def dockerfile() -> list[tuple[str, str]]:
    """The instructions and their arguments."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (instruction, " ".join(arguments.split()))
        for line in joined.splitlines()
        for instruction, _, arguments in [line.partition(" ")]
    ]


def test_dockerfile() -> None:
    instructions = dockerfile()
    stages = [arguments for instruction, arguments in instructions if instruction == "FROM"]
    assert stages == ["python:3.13-slim AS build", "python:3.13-slim"]
    last = instructions[instructions.index(("FROM", stages[1])) :]
    (user,) = [arguments for instruction, arguments in last if instruction == "USER"]
    assert not user.startswith(("0", "root"))

    copied: set[str] = set()
    for instruction, arguments in instructions:
        if instruction == "COPY" and not arguments.startswith("--from=build"):
            *sources, _ = arguments.split()
            copied |= set(sources)
    assert all((ROOT / source).exists() for source in copied)
    # what the build of the wheel reads
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "tracker"}

    (assignments,) = [arguments for instruction, arguments in last if instruction == "ENV"]
    environ = dict(item.split("=", 1) for item in shlex.split(assignments))
    settings = load_settings(environ=environ).settings
    assert (settings.http.bind, settings.log.format) == (("0.0.0.0:8000",), "json")
    assert ("EXPOSE", "8000") in last

    commands = dict(last)
    words = json.loads(commands["ENTRYPOINT"]) + json.loads(commands["CMD"])
    assert words[0] == "tracker"
    assert words[1] in main.commands
    _, _, check = commands["HEALTHCHECK"].partition("CMD ")
    compile(json.loads(check)[2], "HEALTHCHECK", "exec")


def compose() -> dict[str, Any]:
    """What the compose file holds."""
    parsed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return parsed


def test_compose() -> None:
    services = compose()["services"]
    gateway = services["tracker"]
    context = (DEPLOY / gateway["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / gateway["build"]["dockerfile"]).is_file()
    settings = load_settings(environ=gateway["environment"]).settings
    assert settings.mqtt.url == "mqtt://mosquitto:1883"
    assert "mosquitto" in services
    assert float(gateway["stop_grace_period"].removesuffix("s")) > settings.stream.drain_s + 5
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s["ports"])


async def test_compose_commands(tmp_path: Path) -> None:
    """The shown message reaches a client, through a mosquitto with the shown configuration."""
    up, publish = map(shlex.split, OPERATIONS.fence("Containers/sh").splitlines())
    assert up == ["docker", "compose", "-f", "docs/deploy/compose.yaml", "up", "--build"]
    config = compose()["configs"]["mosquitto"]["content"]
    (listener,) = re.findall(r"^listener 1883$", config, re.MULTILINE)
    broker = Mosquitto(tmp_path)
    (tmp_path / f"mosquitto-{broker.port}.conf").write_text(
        f"user {getpass.getuser()}\n"
        + config.replace(listener, f"listener {broker.port} 127.0.0.1")
    )
    publish[0] = program(publish[0], package="mosquitto-clients")
    with broker:
        async with open_fleet(broker) as fleet:
            peer = await fleet.connect()
            await peer.open_sse("1")
            await fleet.wait_subscribed()
            await trio.run_process([*publish, "-p", str(broker.port)])
            assert (await peer.read_chunk()).startswith(b"id: ")
            assert b'"DEVICE_ID":"1"' in await peer.read_chunk()


@pytest.mark.nginx
async def test_nginx(tmp_path: Path, broker: Mosquitto) -> None:
    """TLS, HTTP/2, a path of its own, and a dead gateway beside the one that lives."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pair.pem")
    port, dead_port = free_port(), free_port()
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async with open_fleet(broker, stream=StreamSettings(heartbeat_s=0.2, drain_s=0.1)) as fleet:
        shown_part = OPERATIONS.fence("nginx/nginx")
        for old, new in {
            "127.0.0.1:8000": f"127.0.0.1:{fleet.port}",
            "127.0.0.1:8001": f"127.0.0.1:{dead_port}",
            "listen 443 ssl http2": f"listen 127.0.0.1:{port} ssl http2",
            "/etc/ssl/fleet.example.pem": str(tmp_path / "pair.pem"),
            "/etc/ssl/fleet.example.key": str(tmp_path / "pair.pem"),
        }.items():
            assert shown_part.count(old) == 1
            shown_part = shown_part.replace(old, new)
        with run_nginx(tmp_path, shown_part, port):
            socket = await fleet.connect(port, tls=context)
            events = await fleet.connect(port, tls=context)
            await socket.send(handshake("/fleet/api/v1/stream?device_ids=A"))
            assert (await socket.read_head()).status == 101
            await events.send(request_head("/fleet/api/v1/stream?device_ids=A"))
            assert (await events.read_head()).status == 200
            await fleet.wait_subscribed(2)
            await next_heartbeat(socket, events)
            await fleet.publish("trackers/a", '{"timestamp":1,"data":{"DEVICE_ID":"A"}}')
            await next_message(socket, events)

            for target, status in {
                "/fleet/": 200,
                "/fleet/page.js": 200,
                "/fleet/healthz": 200,
                "/fleet/metrics": 404,
            }.items():
                peer = await fleet.connect(port, tls=context)
                assert (await peer.request(target)).status == status
            version = await trio.run_process(
                [
                    program("curl"),
                    "-sko",
                    os.devnull,
                    "-w",
                    "%{http_version}",
                    f"https://127.0.0.1:{port}/fleet/",
                ],
                capture_stdout=True,
            )
            assert version.stdout == b"2"


async def test_root_path_is_for_a_proxy_that_leaves_it_in_the_url(broker: Mosquitto) -> None:
    async with open_fleet(broker, http=HttpSettings(root_path="/fleet")) as fleet:
        assert (await fleet.request("/fleet/healthz")).status == 200
        assert (await fleet.request("/healthz")).status == 404
        peer = await fleet.connect()
        await peer.send(handshake("/fleet/api/v1/stream"))
        assert (await peer.read_head()).status == 101


def test_kubernetes_variables_are_passed_over() -> None:
    load_settings(
        environ={"TRACKER_PORT": "tcp://10.0.0.1:8000", "TRACKER_SERVICE_HOST": "10.0.0.1"}
    )
