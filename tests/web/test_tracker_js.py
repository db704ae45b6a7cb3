"""The JavaScript client in a real browser, against a real gateway, through forced cuts."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import Page

import tracker.web
from tests.browser import in_browser
from tests.gateway import Gateway, start_gateway
from tests.mosquitto import Mosquitto
from tests.publisher import Publisher
from tests.serving import Serving
from tests.tools import program
from tests.web.cutting_proxy import CuttingProxy
from tracker.domain.event import UPSTREAM_LOST

SIZE_LIMIT_BYTES = 3 * 1024
DEADLINE_S = 20.0
#: What a cut, a refusal and a broken handshake leave on the browser's console.
NOISE = r"net::ERR_|WebSocket|status of \d+"
STATIC = Path(tracker.web.__file__).parent / "static"
TRANSPORTS = ("websocket", "sse")
EVENTS = (
    "message", "snapshot", "track", "gap", "resume", "upstream", "mode", "state", "error", "auth",
    "ack", "reconnect", "closed",
)  # fmt: skip

#: The log is [name, text, lastEventId] of every event, in order.
START = """async ([names, url, options]) => {
  const { Tracker } = await import("/tracker.js");
  window.tracker = new Tracker(url, options);
  window.log = [];
  for (const name of names) {
    tracker.addEventListener(name, (event) => {
      log.push([name, event.text, event.lastEventId]);
      window.on?.[name]?.(event);
    });
  }
}"""


@dataclass(frozen=True)
class Heard:
    """One event that the page got."""

    name: str
    text: str
    event_id: str

    @property
    def data(self) -> Any:
        """Its value."""
        return json.loads(self.text)

    @property
    def device(self) -> tuple[str, int]:
        """The device and the number of a message."""
        fields = self.data["data"]
        return fields["DEVICE_ID"], fields["N"]


class Client:
    """A `Tracker` in a page."""

    def __init__(self, page: Page, origin: str, **options: object) -> None:
        self.page = page
        # A document that comes with the policy of the page at `/`.
        page.goto(f"{origin}/tracker.js")
        page.evaluate(START, [list(EVENTS), "/api/v1/stream", options])

    def call(self, expression: str) -> Any:
        """What an expression about `tracker` is."""
        return self.page.evaluate(expression)

    def wait(self, condition: str) -> None:
        """Wait until a condition about `tracker` and `log` holds."""
        wait_for(self.page, condition)

    def wait_state(self, state: str) -> None:
        """Wait until it is in a state."""
        self.wait(f"tracker.state === {json.dumps(state)}")

    def wait_message(self, device_id: str, number: int) -> None:
        """Wait until it has got a message of a device."""
        text = json.dumps(f'"DEVICE_ID":"{device_id}","N":{number}')
        self.wait(f"log.some(([name, text]) => name === 'message' && text.includes({text}))")

    def log(self, *names: str) -> list[Heard]:
        """What it got, of these names."""
        heard = [Heard(*entry) for entry in self.page.evaluate("log")]
        return [event for event in heard if not names or event.name in names]


def wait_for(page: Page, condition: str) -> None:
    """Wait for a condition; as a function, since the policy forbids to evaluate a text."""
    page.wait_for_function(f"() => {condition}", timeout=DEADLINE_S * 1000)


def publish(gateway: Gateway, device_id: str, *numbers: int) -> None:
    """Publish messages of a device, as one batch."""
    payloads = [f'{{"DEVICE_ID":"{device_id}","N":{number}}}'.encode() for number in numbers]
    trio.from_thread.run(gateway.publish_payloads, payloads)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def meet(
    visit: Callable[[Page, Gateway, CuttingProxy], None],
    *,
    stream: dict[str, Any] | None = None,
    tolerate: str = NOISE,
) -> None:
    """Visit a gateway that stands behind a proxy."""
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery, stream=stream, with_ticker=True)
        proxy = CuttingProxy(gateway.port)
        async with proxy.serve():
            await in_browser(lambda page: visit(page, gateway, proxy), tolerate=tolerate)
        nursery.cancel_scope.cancel()


def has_passed(time_s: float) -> bool:
    return time.monotonic() > time_s


def call(function: Callable[..., object], *arguments: object) -> None:
    trio.from_thread.run_sync(function, *arguments)


def test_it_is_small() -> None:
    content = (STATIC / "tracker.js").read_bytes()
    assert len(gzip.compress(content, 9)) <= SIZE_LIMIT_BYTES


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_through_cuts_nothing_is_lost_and_nothing_comes_twice(transport: str) -> None:
    devices = ("a", "b", "c")
    dice = random.Random(transport)

    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=devices, transport=transport)
        client.wait_state("live")
        published = dict.fromkeys(devices, 0)

        def go_on(is_over: Callable[[], bool]) -> None:
            deadline = time.monotonic() + DEADLINE_S
            while not is_over():
                assert time.monotonic() < deadline
                for device_id in devices:
                    first = published[device_id]
                    published[device_id] += dice.randrange(8)
                    publish(gateway, device_id, *range(first, published[device_id]))
                page.wait_for_timeout(dice.randrange(30))

        for cut in range(1, 9):
            # One that lasts for less makes the pauses grow.
            lasts_until = time.monotonic() + dice.uniform(0.5, 0.9)
            go_on(partial(has_passed, lasts_until))
            # In the midst of what comes next, or between two messages.
            if dice.random() < 0.7:
                call(proxy.cut_after, dice.randrange(1, 400))
            else:
                call(proxy.cut)
            resumed = f"log.filter(([name]) => name === 'resume').length === {cut}"
            go_on(partial(client.call, resumed))
        for device_id in devices:
            publish(gateway, device_id, published[device_id])
            client.wait_message(device_id, published[device_id])

        heard = client.log("message")
        for device_id in devices:
            numbers = [event.device[1] for event in heard if event.device[0] == device_id]
            assert numbers == list(range(published[device_id] + 1))
        sequences = [int(event.event_id.rpartition("-")[2]) for event in heard]
        assert sequences == sorted(set(sequences))
        resumes = [event.data["status"] for event in client.log("resume")]
        assert resumes == ["continued"] * 8
        assert not client.log("gap", "error")

    await meet(visit, stream={"history_messages": 100_000, "buffer_messages": 10_000})


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_fell_out_of_the_history_is_declared(transport: str) -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"], transport=transport)
        client.wait_state("live")
        publish(gateway, "a", 0)
        client.wait_message("a", 0)
        call(proxy.cut)
        publish(gateway, "a", *range(1, 50))
        client.wait_message("a", 49)
        events = client.log("message", "resume")
        assert [event.device[1] for event in events if event.name == "message"] == [
            0, *range(45, 50),
        ]  # fmt: skip
        assert [event.name for event in events[:3]] == ["message", "resume", "message"]
        assert events[1].data["status"] == "partial"

    await meet(visit, stream={"history_messages": 5})


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_devices_come_and_go_on_the_live_stream(transport: str) -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        publish(gateway, "a", 0)
        publish(gateway, "b", 0)
        client = Client(page, proxy.url, deviceIds=["a"], transport=transport, last=True)
        client.wait("log.some(([name]) => name === 'snapshot')")
        # Many calls are one operation.
        client.call(
            "['b', 'x', 'y', 'z', 7].forEach((id) => tracker.subscribe(id)),"
            " tracker.unsubscribe(['x', 'y'])"
        )
        wait_until(lambda: gateway.statistics.subscriptions == 4)
        client.wait_state("live")
        publish(gateway, "b", 1)
        publish(gateway, "a", 1)
        client.wait_message("a", 1)
        assert [event.device for event in client.log("message")] == [("b", 1), ("a", 1)]
        snapshots = [event.device for event in client.log("snapshot")]
        if transport == "websocket":
            assert snapshots == [("a", 0), ("b", 0)]
            assert proxy.asked == ["websocket"]
            assert [event.data["op"] for event in client.log("ack")] == ["subscribe"]
        else:
            assert snapshots == [("a", 0)]
            assert proxy.asked == ["sse", "sse"]
        assert client.call("tracker.deviceIds") == ["a", "b", "z", "7"]

        client.call("tracker.unsubscribe('b')")
        wait_until(lambda: gateway.statistics.subscriptions == 3)
        publish(gateway, "b", 2)
        publish(gateway, "a", 2)
        client.wait_message("a", 2)
        assert client.log("message")[-1].device == ("a", 2)
        assert ("b", 2) not in [event.device for event in client.log("message")]

        client.call("tracker.unsubscribe(tracker.deviceIds)")
        client.wait_state("idle")
        wait_until(lambda: gateway.statistics.subscriptions == 0)
        client.call("tracker.subscribe('a')")
        client.wait_state("live")
        client.wait("log.at(-1)?.[0] === 'snapshot'")

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
async def test_a_device_whose_subscription_was_cut_begins_with_its_past() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        for device_id in ("a", "b"):
            publish(gateway, device_id, 0)
        client = Client(
            page, proxy.url, deviceIds="a", transport="websocket", last=True, track="15m"
        )
        client.wait("log.filter(([name]) => name === 'track').length === 1")
        call(proxy.cut)
        client.wait_state("waiting")
        client.call("tracker.subscribe('b')")
        publish(gateway, "a", 1)
        client.wait("log.filter(([name]) => name === 'track').length === 2")
        past = [event.device for event in client.log("snapshot", "track")]
        assert past == [("a", 0), ("a", 0), ("b", 0), ("b", 0)]
        assert [event.device for event in client.log("message")] == [("a", 1)]
        assert [event.data["status"] for event in client.log("resume")] == ["continued"]

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
async def test_more_devices_than_one_operation_takes() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds="a", transport="websocket")
        client.wait_state("live")
        client.call("tracker.subscribe(Array.from({ length: 450 }, (_, i) => `ü${i}`.repeat(9)))")
        wait_until(lambda: gateway.statistics.subscriptions == 451)
        client.wait("log.filter(([name]) => name === 'ack').length === 5")
        # Refused: it would be too many. They are not wanted any more.
        client.call("tracker.subscribe(Array.from({ length: 60 }, (_, i) => `more ${i}`))")
        client.wait("log.some(([name]) => name === 'error')")
        assert "60" in client.log("error")[0].data["message"]
        assert client.call("tracker.deviceIds.length") == 451
        assert client.call("tracker.state") == "live"

    await meet(visit, stream={"max_device_ids": 500})


@pytest.mark.slow
@pytest.mark.browser
async def test_sse_takes_over_where_no_websocket_opens() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        proxy.refuses_websockets = True
        client = Client(page, proxy.url, deviceIds=["a"])
        client.wait_state("live")
        assert client.call("tracker.transport") == "sse"
        publish(gateway, "a", 0)
        client.wait_message("a", 0)
        call(proxy.cut)
        client.wait_state("waiting")
        client.wait_state("live")
        assert proxy.asked == ["websocket", "sse", "sse"]

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
async def test_where_a_websocket_opened_there_is_no_sse() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"])
        client.wait_state("live")
        proxy.refuses_websockets = True
        call(proxy.cut)
        wait_until(lambda: len(proxy.asked) == 3)
        publish(gateway, "a", 0)
        proxy.refuses_websockets = False
        client.wait_message("a", 0)
        assert set(proxy.asked) == {"websocket"}

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_silent_connection_is_replaced(transport: str) -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"], transport=transport, ping=0)
        client.wait_state("live")
        page.wait_for_timeout(1_500)  # longer than the silence that is allowed
        assert len(proxy.asked) == 1
        proxy.is_silent = True
        publish(gateway, "a", 0)
        client.wait("""log.some(([, text]) => text.includes('"waiting"'))""")
        proxy.is_silent = False
        client.wait_message("a", 0)
        states = [event.data for event in client.log("state")]
        assert [state["message"] for state in states if state["state"] == "waiting"] == ["silence"]

    await meet(visit, stream={"ping_s": 0.4})


@pytest.mark.slow
@pytest.mark.browser
async def test_changing_the_transport_and_the_page_loses_nothing() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"], transport="websocket")
        client.wait_state("live")
        publish(gateway, "a", 0)
        client.wait_message("a", 0)
        for number, transport in enumerate(("sse", "websocket"), 1):
            client.call(f"tracker.reconnect({{ transport: '{transport}' }})")
            publish(gateway, "a", number)
            client.wait_message("a", number)
        assert [event.device[1] for event in client.log("message")] == [0, 1, 2]
        place = client.call("tracker.lastEventId")
        client.call("tracker.close()")
        publish(gateway, "a", 3)

        client = Client(page, proxy.url, deviceIds=["a"], lastEventId=place)
        client.wait_message("a", 3)
        assert [event.data["status"] for event in client.log("resume")] == ["continued"]

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_stream_without_ids_resumes_as_a_reset(transport: str) -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"], transport=transport, mode="latest")
        client.wait_state("live")
        publish(gateway, "a", 0)
        client.wait_message("a", 0)
        call(proxy.cut)
        publish(gateway, "a", 1)
        client.wait("log.at(-1)?.[0] === 'snapshot'")
        (resumed,) = client.log("resume")
        assert (resumed.data["status"], client.log("snapshot")[0].device) == ("reset", ("a", 1))
        assert [event.device[1] for event in client.log("message")] == [0]

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_text_keeps_what_javascript_would_round(transport: str) -> None:
    inner = '{"DEVICE_ID":"a","N":123456789012345678901234567890,"X":1.10,"S":"\u2028: \\n{}"}'

    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"], transport=transport)
        client.wait_state("live")
        client.call("window.on = { message: ({ data }) => (window.value = data.data) }")
        trio.from_thread.run(
            gateway.publish_payloads, [f'{{"timestamp":"t","data":{inner}}}'.encode()]
        )
        client.wait("window.value")
        assert client.log("message")[0].text == f'{{"timestamp":"t","data":{inner}}}'
        assert client.call("value.N") == 123456789012345678901234567890.0
        assert client.call("value.S") == "\u2028: \n{}"

    await meet(visit)


@pytest.mark.slow
@pytest.mark.browser
async def test_a_listener_that_fails_or_closes_harms_nobody() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        client = Client(page, proxy.url, deviceIds=["a"], transport="sse")
        client.wait_state("live")
        client.call("window.on = { message({ data }) { if (data.data.N === 1) throw Error('x') } }")
        publish(gateway, "a", *range(4))
        client.wait_message("a", 3)
        client.call("window.on = { message: () => tracker.close() }")
        publish(gateway, "a", 4, 5, 6)
        client.wait_state("idle")
        wait_until(lambda: gateway.statistics.subscriptions == 0)
        assert [event.device[1] for event in client.log("message")] == [0, 1, 2, 3, 4]
        with pytest.raises(Exception, match="not a device id"):
            client.call("tracker.subscribe('a,b')")

    await meet(visit, tolerate=f"{NOISE}|thrown: x")


@contextmanager
def native_source(page: Page, origin: str) -> Iterator[None]:
    """A native EventSource, whose every event is logged with its lastEventId."""
    page.goto(f"{origin}/tracker.js")
    page.evaluate(
        """(names) => {
          window.log = [];
          window.source = new EventSource("/api/v1/stream?device_ids=a&hello=1&ping=5&last=1");
          for (const name of names) {
            source.addEventListener(name, ({ data, lastEventId }) => {
              log.push([name, data, lastEventId]);
            });
          }
        }""",
        [*(name for name in EVENTS if name != "error"), "hello", "ping"],
    )
    try:
        yield
    finally:
        page.evaluate("source.close()")


@pytest.mark.slow
@pytest.mark.browser
async def test_a_native_event_source_resumes_by_itself() -> None:
    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        def heard() -> list[Heard]:
            return [Heard(*entry) for entry in page.evaluate("log")]

        publish(gateway, "a", 0)
        with native_source(page, proxy.url):
            wait_for(page, "log.some(([name]) => name === 'snapshot')")
            first = 1
            for rounds in range(2):
                publish(gateway, "a", *range(first, first + 3))
                first += 3
                wait_for(page, f"log.at(-1)?.[1].includes('\"N\":{first - 1}')")
                call(gateway.parts.hub.note_lost, 2)
                call(gateway.parts.hub.streams()[0].post, UPSTREAM_LOST)
                wait_for(page, "log.at(-1)?.[0] === 'upstream'")
                call(proxy.cut)
                publish(gateway, "a", first)
                first += 1
                wait_for(page, f"log.at(-1)?.[1].includes('\"N\":{first - 1}')")
                assert [e.name for e in heard()].count("resume") == rounds + 1
            wait_for(page, "log.at(-1)?.[0] === 'ping'")
        events = heard()
        numbers = [event.device[1] for event in events if event.name == "message"]
        assert numbers == list(range(1, first))
        before = ""
        for event in events:
            if event.name in {"gap", "upstream", "ping"}:
                assert event.event_id == before, event
            elif before:
                assert sequence(event.event_id) >= sequence(before), event
            before = event.event_id

    await meet(visit)


def sequence(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.mosquitto
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_over_restarts_of_the_gateway(transport: str, tmp_path: Path) -> None:
    environment = {
        "TRACKER_STREAM__HISTORY_FILE": str(tmp_path / "history"),
        "TRACKER_MQTT__CLIENT_ID": "gateway",
        "TRACKER_MQTT__CLEAN_SESSION": "false",
        "TRACKER_MQTT__QOS": "1",
    }
    proxy = CuttingProxy(0)

    def serving() -> Serving:
        return Serving(tmp_path, broker.url, environment=environment)

    def visit(page: Page) -> None:
        def publish_some(gateway: Serving, first: int) -> None:
            for number in range(first, first + 5):
                device.publish("trackers/a", f'{{"DEVICE_ID":"a","N":{number}}}'.encode())
            client.wait_message("a", first + 4)

        with Publisher(broker.port) as device:
            with serving() as gateway:
                proxy.port = gateway.wait_ready().port
                client = Client(page, proxy.url, deviceIds=["a"], transport=transport)
                client.wait_state("live")
                publish_some(gateway, 0)
                gateway.stop()
            with serving() as gateway:
                proxy.port = gateway.wait_ready().port
                client.wait("log.some(([name]) => name === 'resume')")
                publish_some(gateway, 5)
            # Killed: it kept nothing.
            with serving() as gateway:
                proxy.port = gateway.wait_ready().port
                client.wait("log.filter(([name]) => name === 'resume').length === 2")
                publish_some(gateway, 10)
        names = [event.name for event in client.log("message", "resume", "reconnect")]
        some = ["message"] * 5
        assert names == [*some, "reconnect", "resume", *some, "resume", *some]
        assert [event.device[1] for event in client.log("message")] == list(range(15))
        statuses = [event.data["status"] for event in client.log("resume")]
        assert statuses == ["continued", "reset"]

    with Mosquitto(tmp_path) as broker:
        async with proxy.serve():
            await in_browser(visit, tolerate=NOISE)


def run(directory: Path, *command: str | Path) -> str:
    """What a command says. Blocks."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def npm_project(directory: Path, *packages: str) -> Path:
    """A project with the client and `packages`; returns where its programs are."""
    npm = program("npm")
    for name in ("tracker.js", "tracker.d.ts"):
        (directory / name).write_bytes((STATIC / name).read_bytes())
    (directory / "package.json").write_text('{"private":true,"type":"module"}')
    run(directory, npm, "install", "--no-audit", "--no-fund", "--loglevel=error", *packages)
    return directory / "node_modules" / ".bin"


USE = """
import { Tracker, type Message, type TrackerEvent } from "./tracker.js";

interface Fix { LAT: number; LON: number }

const tracker = new Tracker("/api/v1/stream", {
  deviceIds: ["a", 7], transport: "auto", last: true, track: "15m", mode: "latest", max_rate: 1,
});
tracker.addEventListener("message", ({ data, text, lastEventId }) => {
  const fix = data as Message<Fix>;
  const all: [number, string, string, string] = [fix.data.LAT, data.timestamp, text, lastEventId];
  document.title = all.join();
});
tracker.addEventListener("gap", (event: TrackerEvent<{ dropped: number }>) => event.data.dropped);
tracker.addEventListener("resume", ({ data }) => data.status === "partial" && data.missed);
tracker.addEventListener("state", ({ data }) => data.state === "waiting" && data.afterMs);
tracker.addEventListener("auth", () => tracker.reconnect({ url: "/api/v1/stream?token=new" }));
tracker.addEventListener("of a later gateway", (event) => event.data);
tracker.subscribe("b");
tracker.unsubscribe(["a", 7]);
const state: "idle" | "connecting" | "live" | "waiting" | "closed" = tracker.state;
document.title = [state, ...tracker.deviceIds].join();
"""
MISUSES = """
import { Tracker } from "./tracker.js";

// @ts-expect-error
new Tracker();
// @ts-expect-error
new Tracker("/", { transport: "carrier pigeon" });
const tracker = new Tracker("/");
// @ts-expect-error
tracker.state = "live";
// @ts-expect-error
tracker.addEventListener("gap", ({ data }) => data.lost);
// @ts-expect-error
tracker.subscribe({});
"""


@pytest.mark.npm
@pytest.mark.slow
def test_its_types_say_how_it_is_used(tmp_path: Path) -> None:
    programs = npm_project(tmp_path, "typescript@5.9")
    (tmp_path / "use.ts").write_text(USE)
    (tmp_path / "misuses.ts").write_text(MISUSES)
    options = ("--noEmit", "--strict", "--target", "es2022", "--module", "esnext")
    more = ("--moduleResolution", "bundler", "--lib", "es2022,dom")
    run(tmp_path, programs / "tsc", *options, *more, "use.ts", "misuses.ts")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.npm
async def test_a_bundler_takes_it(tmp_path: Path) -> None:
    def bundle() -> str:
        programs = npm_project(tmp_path, "esbuild@0.27")
        (tmp_path / "entry.js").write_text(
            "import { Tracker } from './tracker.js';\n"
            "const tracker = new Tracker('/api/v1/stream', { deviceIds: 'a' });\n"
            "tracker.addEventListener('message', ({ data }) => (window.bundled = data.data.N));\n"
        )
        flags = ("--bundle", "--minify", "--target=es2022", "--log-level=error")
        return run(tmp_path, programs / "esbuild", "entry.js", *flags)

    script = await trio.to_thread.run_sync(bundle)

    def visit(page: Page, gateway: Gateway, proxy: CuttingProxy) -> None:
        page.goto(f"{proxy.url}/healthz")
        page.add_script_tag(content=script)
        wait_until(lambda: gateway.statistics.subscriptions == 1)
        publish(gateway, "a", 7)
        wait_for(page, "window.bundled === 7")

    await meet(visit)


async def test_it_is_served_without_the_page_too(nursery: trio.Nursery) -> None:
    origin = "https://app.example"
    gateway = await start_gateway(nursery, api={"page": False, "cors_origins": (origin,)})
    for name, content_type in (("tracker.js", "text/javascript"), ("tracker.d.ts", "text/plain")):
        peer = await gateway.connect()
        response = await peer.request(f"/{name}", f"Origin: {origin}")
        assert (response.status, response.body) == (200, (STATIC / name).read_bytes())
        assert response.headers["content-type"] == f"{content_type}; charset=utf-8"
        assert response.headers["access-control-allow-origin"] == origin
    peer = await gateway.connect()
    assert (await peer.request("/page.js")).status == 404
