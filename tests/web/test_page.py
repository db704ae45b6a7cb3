"""The page at `/` in a real browser, against a gateway that does what each test needs."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
import trio
from playwright.sync_api import Locator, Page, expect

from tests.browser import in_browser
from tests.web.fake_gateway import FakeGateway

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CONNECTION_ERRORS = r"net::ERR_|WebSocket connection to .* failed"
NOT_FOUND = r"status of 404"
BAD_REQUEST = r"status of 400"


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    gateway = FakeGateway()
    async with gateway.serve():
        yield gateway


def message(device_id: str, lat: float = 40.7, lon: float = -74.0, **fields: object) -> str:
    data = {"DEVICE_ID": device_id, "LAT": lat, "LON": lon, **fields}
    return json.dumps({"timestamp": "2026-01-01T00:00:00Z", "data": data})


def open_live(page: Page, gateway: FakeGateway) -> None:
    page.goto(gateway.url)
    expect(page.locator("#link-text")).to_have_text("Live")


def row(page: Page, device_id: str) -> Locator:
    cell = page.get_by_role("gridcell", name=device_id, exact=True)
    return page.get_by_role("row").filter(has=cell)


def publish(gateway: FakeGateway, device_id: str, payload: str) -> None:
    trio.from_thread.run_sync(gateway.publish, device_id, payload)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pixels_of(page: Page, colour: str) -> int:
    """How many pixels of the map have the colour of this custom property."""
    return int(
        page.evaluate(
            """(name) => {
              const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
              const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
              const canvas = document.querySelector("canvas");
              const { width, height } = canvas;
              const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
              let count = 0;
              for (let i = 0; i < data.length; i += 4) {
                if (data[i] === r && data[i + 1] === g && data[i + 2] === b) count += 1;
              }
              return count;
            }""",
            colour,
        )
    )


async def test_vehicles_appear_with_speed_heading_age_and_change_with_each_message(
    gateway: FakeGateway,
) -> None:
    gateway.place("4720", 53.43, -2.94, speed=5.06, heading=246.4, age_s=125)
    gateway.place("4733", 53.44, -2.92)
    gateway.place("retained", 53.45, -2.9, speed=1, age_s=None)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        expect(row(page, "4720").get_by_role("gridcell")).to_have_text(
            ["4720", "5.1", "246°", "2 min"]
        )
        expect(row(page, "4733").get_by_role("gridcell")).to_have_text(["4733", "–", "–", "0 s"])
        expect(row(page, "retained").get_by_role("gridcell")).to_have_text(
            ["retained", "1.0", "–", "–"]
        )
        expect(page.locator("#count")).to_have_text("3 vehicles")
        expect(page.locator("#figure-processed")).to_have_text("12,345")
        assert pixels_of(page, "--vehicle") > 10

        publish(gateway, "4720", message("4720", SPEED=12, HEADING=-90))
        expect(row(page, "4720").get_by_role("gridcell")).to_have_text(
            ["4720", "12.0", "270°", "0 s"]
        )

    await in_browser(visit)
    assert gateway.opened == [("websocket", ("4720", "4733", "retained"))]


async def test_a_clicked_vehicle_is_followed_and_its_messages_show_byte_for_byte(
    gateway: FakeGateway,
) -> None:
    gateway.place("4720", 53.43, -2.94)
    gateway.place("4733", 53.44, -2.92)
    first = (
        '{"timestamp":"t","data":{"DEVICE_ID":4720,"LAT":53.10,"N":123456789012345678901234567890}}'
    )
    second = '{"timestamp":"t","data":{"DEVICE_ID":"4720","note":"caf\\u00e9 \\"x\\": {1}"}}'

    def visit(page: Page) -> None:
        open_live(page, gateway)
        panel = page.get_by_role("region", name="Messages")
        expect(panel).to_be_hidden()
        row(page, "4720").click()
        expect(row(page, "4720")).to_have_attribute("aria-selected", "true")
        expect(panel).to_be_visible()
        for payload in (first, second):
            publish(gateway, "4720", payload)
        publish(gateway, "4733", message("4733"))
        expect(page.locator(".message-json")).to_have_text([second, first])

        row(page, "4720").click()
        expect(panel).to_be_hidden()

    await in_browser(visit)


@pytest.mark.slow
async def test_a_vehicle_clicked_on_the_map_is_followed(gateway: FakeGateway) -> None:
    gateway.place("4720", 53.43, -2.94)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        # The only vehicle stands in the middle of the first view.
        page.locator("canvas").click()
        expect(row(page, "4720")).to_have_attribute("aria-selected", "true")
        page.wait_for_function("() => document.querySelector('canvas').height < 700")
        assert pixels_of(page, "--follow") > 10

    await in_browser(visit)


@pytest.mark.slow
async def test_the_messages_shown_are_bounded_and_wait_while_paused(gateway: FakeGateway) -> None:
    gateway.place("4720", 53.43, -2.94)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        row(page, "4720").click()
        for number in range(250):
            publish(gateway, "4720", message("4720", n=number))
        expect(page.locator(".message")).to_have_count(200)
        expect(page.locator(".message-json").first).to_have_text(message("4720", n=249))

        page.get_by_role("button", name="Pause").click()
        for number in range(250, 253):
            publish(gateway, "4720", message("4720", n=number))
        resume = page.get_by_role("button", name="Resume (3 new)")
        expect(page.locator(".message-json").first).to_have_text(message("4720", n=249))
        resume.click()
        expect(page.locator(".message-json").first).to_have_text(message("4720", n=252))
        expect(page.locator(".message")).to_have_count(200)

    await in_browser(visit)


@pytest.mark.slow
async def test_typed_ids_are_followed_where_the_gateway_lists_no_devices(
    gateway: FakeGateway,
) -> None:
    gateway.devices = None

    def visit(page: Page) -> None:
        page.goto(gateway.url)
        expect(page.get_by_text("api.devices = true")).to_be_visible()
        expect(page.locator("#link-text")).to_have_text("Waiting for ids")
        page.get_by_role("searchbox").fill("a-1, b/2&c 0848086072")
        page.get_by_role("searchbox").press("Enter")
        expect(page.locator("#link-text")).to_have_text("Live")
        publish(gateway, "b/2&c", message("b/2&c", SPEED=3))
        expect(row(page, "b/2&c").get_by_role("gridcell")).to_have_text(
            ["b/2&c", "3.0", "–", "0 s"]
        )
        expect(page.locator(".message-id")).to_have_text(["b/2&c"])

    await in_browser(visit, tolerate=NOT_FOUND)
    assert gateway.opened == [("websocket", ("a-1", "b/2&c", "0848086072"))]


async def test_what_a_device_sends_stays_text(gateway: FakeGateway) -> None:
    evil = "<img src=x onerror=\"document.title='broken'\">"
    gateway.place(evil, 53.43, -2.94)
    gateway.place("4720", 53.44, -2.92)
    odd = json.dumps(
        {
            "timestamp": evil,
            "data": {
                "DEVICE_ID": evil,
                "LAT": "north",
                "LON": [1],
                "SPEED": {"toFixed": 1},
                "HEADING": True,
                evil: "</code><script>document.title='broken'</script>",
                "__proto__": None,
            },
        }
    )

    def visit(page: Page) -> None:
        open_live(page, gateway)
        row(page, evil).click()
        publish(gateway, evil, odd)
        for nothing in (
            "null",
            "[]",
            "7",
            '"text"',
            "{}",
            '{"data":null}',
            '{"data":{"DEVICE_ID":{}}}',
        ):
            publish(gateway, evil, nothing)
        expect(page.locator(".message-json")).to_have_text([odd])
        expect(page.locator(".chip-id")).to_have_text([evil])
        expect(row(page, evil).get_by_role("gridcell")).to_have_text([evil, "–", "–", "0 s"])
        page.locator("canvas").hover()
        assert page.locator("img").count() == 0
        assert page.title() == "tracker"

    await in_browser(visit)


@pytest.mark.slow
async def test_a_cluttered_narrow_window_does_not_scroll_sideways(gateway: FakeGateway) -> None:
    long_id = "W" * 128
    gateway.place(long_id, 53.43, -2.94, speed=123456.7, heading=359.0, age_s=300_000)
    for number in range(40):
        gateway.place(str(number), 40 + number / 100, -74, speed=1.0)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        for device_id in ("0", "1", "2", "3"):
            row(page, device_id).click()
            if page.locator("#messages-fold").get_attribute("aria-expanded") == "true":
                page.locator("#messages-fold").click()
        page.locator("#messages-fold").click()
        publish(gateway, "1", message("1", note="x" * 500))
        gap = {"device_id": None, "dropped": 1_234_567, "reason": "r" * 500}
        trio.from_thread.run_sync(partial(gateway.tell, "gap", **gap))
        expect(page.locator(".message")).to_have_count(2)
        expect(page.locator("#figure-lost")).to_be_visible()
        for width in (320, 390, 719, 720, 1080):
            page.set_viewport_size({"width": width, "height": 640})
            overflow = page.evaluate(
                "() => document.documentElement.scrollWidth > innerWidth"
                " || document.documentElement.scrollHeight > innerHeight"
            )
            assert (width, overflow) == (width, False)

    await in_browser(visit, width_px=390, height_px=844, color_scheme="dark")


@pytest.mark.slow
async def test_the_keyboard_alone_reaches_list_and_map(gateway: FakeGateway) -> None:
    gateway.place("4720", 53.43, -2.94)
    gateway.place("4733", 53.44, -2.92)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        grid = page.get_by_role("grid")
        grid.focus()
        for key in ("ArrowDown", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        expect(row(page, "4733")).to_have_attribute("aria-selected", "true")
        active = grid.get_attribute("aria-activedescendant")
        assert active is not None
        expect(page.locator(f"#{active}").get_by_role("gridcell").first).to_have_text("4733")
        page.get_by_role("button", name="Speed").press("Enter")
        expect(page.locator("[data-key=speed]")).to_have_attribute("aria-sort", "descending")

        canvas = page.locator("canvas")
        canvas.focus()
        for key in ("ArrowLeft",) * 12:
            page.keyboard.press(key)
        page.wait_for_function("() => new Promise(requestAnimationFrame)")
        assert pixels_of(page, "--vehicle") == 0
        page.keyboard.press("0")
        expect(canvas).to_be_focused()
        wait_for_pixels(page, "--vehicle")

    await in_browser(visit)


def wait_for_pixels(page: Page, colour: str) -> None:
    while pixels_of(page, colour) == 0:
        page.wait_for_function("() => new Promise(requestAnimationFrame)")


@pytest.mark.slow
async def test_switching_the_transport_loses_and_doubles_nothing(gateway: FakeGateway) -> None:
    gateway.place("4720", 53.43, -2.94)

    def visit(page: Page) -> list[str]:
        open_live(page, gateway)
        row(page, "4720").click()
        numbers = itertools.count()

        def publish_some(count: int) -> None:
            for number in itertools.islice(numbers, count):
                publish(gateway, "4720", message("4720", n=number))
                page.wait_for_timeout(20)

        publish_some(10)
        page.get_by_role("radio", name="SSE").check()
        while len(gateway.opened) < 2 or gateway.open_streams > 1:
            publish_some(1)
        # A new vehicle changes the set of devices, and with it the connection.
        trio.from_thread.run_sync(gateway.place, "4733", 53.44, -2.92)
        while len(gateway.opened) < 3 or gateway.open_streams > 1:
            publish_some(1)
        publish_some(10)
        total = next(numbers)
        page.wait_for_function(
            "(n) => document.querySelector('.message-json').textContent.includes(n)",
            arg=f'"n": {total - 1}}}',
        )
        return page.locator(".message-json").all_text_contents()

    shown = await in_browser(visit)
    numbers = [json.loads(text)["data"]["n"] for text in shown]
    assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1))
    assert len(numbers) == min(200, numbers[0] + 1)
    assert gateway.opened == [
        ("websocket", ("4720",)),
        ("sse", ("4720",)),
        ("sse", ("4720", "4733")),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["WebSocket", "SSE"])
async def test_a_cut_stream_comes_back_by_itself(gateway: FakeGateway, transport: str) -> None:
    gateway.place("4720", 53.43, -2.94)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        page.get_by_role("radio", name=transport).check()
        row(page, "4720").click()
        publish(gateway, "4720", message("4720", n=0))
        expect(page.locator(".message-json")).to_have_count(1)
        wait_until(lambda: gateway.open_streams == 1)

        trio.from_thread.run_sync(gateway.cut)
        expect(page.locator("#link")).to_have_attribute("data-state", "waiting")
        expect(page.locator("#link-text")).to_have_text("Live")
        publish(gateway, "4720", message("4720", n=1))
        expect(page.locator(".message-json")).to_have_count(2)

        trio.from_thread.run_sync(gateway.cut, 30_000)
        expect(page.locator("#link-text")).to_have_text("Reconnecting in 30 s")
        page.get_by_role("button", name="Retry now").click()
        expect(page.locator("#link-text")).to_have_text("Live")

    await in_browser(visit, tolerate=CONNECTION_ERRORS)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["WebSocket", "SSE"])
async def test_a_refusal_is_shown_and_not_tried_again(gateway: FakeGateway, transport: str) -> None:
    gateway.place("4720", 53.43, -2.94)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        gateway.refusal = "No such <b>device</b>"
        page.get_by_role("radio", name="SSE").check()
        page.get_by_role("radio", name=transport).check()
        expect(page.locator("#link-text")).to_have_text("Closed: No such <b>device</b>")
        refused = len(gateway.opened)
        page.wait_for_timeout(1_500)  # longer than the first backoff
        assert len(gateway.opened) == refused

        gateway.refusal = None
        page.get_by_role("button", name="Retry now").click()
        expect(page.locator("#link-text")).to_have_text("Live")

    await in_browser(visit, tolerate=BAD_REQUEST)


@pytest.mark.slow
async def test_five_thousand_vehicles_fit_one_connection_and_few_rows(
    gateway: FakeGateway,
) -> None:
    gateway.max_device_ids = 700
    for number in range(5_000):
        gateway.place(f"vehicle-{number:05}", 40 + number / 5_000, -74 + number % 70 / 70)

    def visit(page: Page) -> None:
        open_live(page, gateway)
        expect(page.locator("#count")).to_have_text("5,000 vehicles")
        assert page.locator(".row").count() < 60
        page.get_by_role("grid").press("End")
        expect(row(page, "vehicle-04999")).to_be_visible()
        row(page, "vehicle-04999").dblclick()
        expect(row(page, "vehicle-04999")).to_have_attribute("aria-selected", "true")
        wait_until(lambda: len(gateway.operations) == 2)
        publish(gateway, "vehicle-04999", message("vehicle-04999"))
        expect(page.locator(".message")).to_have_count(1)

        page.get_by_role("searchbox").fill("0123")
        expect(page.locator("#count")).to_have_text("11 of 5,000 vehicles")

    await in_browser(visit)
    ((_, opened),) = gateway.opened
    assert len(opened) <= 700
    assert len(",".join(opened)) < 15_000
    gone, fresh = ((each["op"], each["device_ids"]) for each in gateway.operations)
    assert gone == ("unsubscribe", [opened[-1]])
    assert fresh == ("subscribe", ["vehicle-04999"])


@pytest.mark.slow
async def test_the_page_says_what_it_lacks(gateway: FakeGateway) -> None:
    gateway.place("4720", 53.43, -2.94)
    gateway.place("old", 53.44, -2.92, age_s=300)

    def tell(name: str, **data: object) -> None:
        trio.from_thread.run_sync(partial(gateway.tell, name, **data))

    def visit(page: Page) -> None:
        open_live(page, gateway)
        notice = page.locator("#notice")
        lost = page.locator("#figure-lost")
        canvas_opacity = "() => getComputedStyle(document.querySelector('canvas')).opacity"
        expect(row(page, "old")).to_have_class(re.compile("silent"))
        expect(row(page, "4720")).not_to_have_class(re.compile("silent"))
        expect(notice).to_be_hidden()
        expect(lost).to_be_hidden()

        row(page, "4720").click()
        publish(gateway, "4720", message("4720", n=0))
        tell("gap", device_id="4720", dropped=12, reason="buffer_full")
        tell("gap", device_id="old", dropped=1, reason="buffer_full")
        tell("gap", device_id=None, dropped=1_000, reason="ingest")
        publish(gateway, "4720", message("4720", n=1))
        expect(page.locator(".message")).to_have_count(4)
        # Where they were lost; of the vehicles that are followed.
        assert page.locator(".message > :last-child").all_text_contents() == [
            message("4720", n=1),
            "1,000 messages lost: the gateway was too slow",
            "12 messages lost: this page was too slow",
            message("4720", n=0),
        ]
        expect(notice).to_have_text("1,000 messages lost: the gateway was too slow")
        expect(lost).to_have_text("1,013")

        tell("upstream", connected=False)
        expect(notice).to_contain_text("The gateway has lost its broker: positions as of ")
        assert float(page.evaluate(canvas_opacity)) < 1
        tell("upstream", connected=True)
        expect(notice).to_contain_text("messages of the time between may be lost")
        expect(lost).to_have_text("1,013 +")
        assert float(page.evaluate(canvas_opacity)) == 1

        trio.from_thread.run_sync(gateway.cut, 1_000)
        expect(notice).to_contain_text("Not live: positions as of ")
        publish(gateway, "4720", message("4720", n=2))
        expect(page.locator("#link-text")).to_have_text("Live")
        expect(notice).to_have_text("Back: 1 missed message caught up")
        expect(page.locator(".message-json").first).to_have_text(message("4720", n=2))
        assert float(page.evaluate(canvas_opacity)) == 1

        tell("resume", status="partial", missed=None, position="1")
        expect(notice).to_have_text("Back: some messages of the time between are lost")
        expect(notice).to_be_hidden(timeout=15_000)

    await in_browser(visit)


@pytest.mark.slow
async def test_where_no_websocket_opens_the_page_says_that_it_uses_sse(
    gateway: FakeGateway,
) -> None:
    gateway.place("4720", 53.43, -2.94)
    gateway.has_websockets = False

    def visit(page: Page) -> None:
        open_live(page, gateway)
        expect(page.get_by_role("radio", name="SSE")).to_be_checked()

    await in_browser(visit, tolerate=CONNECTION_ERRORS)
    assert gateway.opened == [("sse", ("4720",))]
