"""What the JavaScript client makes of each way in which a connection ends. PROTOCOL B5."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

from tests.browser import in_browser
from tests.web.scripted_gateway import Answer, ScriptedGateway
from tests.web.test_tracker_js import NOISE, Client

pytestmark = [pytest.mark.slow, pytest.mark.browser]

HELLO = '{"event":"hello","data":{"version":"1","ping_s":60,"buffer":100,"position":"e-1"}}'
SSE_HELLO = 'event: hello\ndata: {"version":"1","ping_s":60,"buffer":100,"position":"e-1"}\n\n'
STAYS = Answer((HELLO,))
SSE_STAYS = Answer(body=SSE_HELLO, stays=True)
#: Longer than the first pause.
PAUSE_MS = 600


@dataclass(frozen=True)
class Case:
    """A transport, what its first connections get, and what is to be seen of it."""

    transport: str
    answer: Answer
    seen: object = None

    @property
    def good(self) -> Answer:
        """What a connection gets that is to stay."""
        return STAYS if self.transport == "websocket" else SSE_STAYS


Visit = Callable[[Client, ScriptedGateway, Case], None]


def envelope(name: str, **data: object) -> str:
    return json.dumps({"event": name, "data": data}, separators=(",", ":"))


def sse(name: str, **data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def meet(visit: Visit, *cases: Case) -> None:
    """Visit a gateway for each case, in one browser."""
    gateway = ScriptedGateway()

    def run(page: Page) -> None:
        for case in cases:
            gateway.asked.clear()
            gateway.answers.clear()
            gateway.answers.append(case.answer)
            client = Client(page, gateway.url, deviceIds=["a"], transport=case.transport)
            visit(client, gateway, case)
            # The next connection would find no answer.
            client.call("tracker.close()")

    async with gateway.serve():
        await in_browser(run, tolerate=NOISE)


NO = envelope("error", message="No <b>")
EXPIRED = envelope("error", message="expired")
HINT = {"after_ms": 1_234, "reason": "shutdown"}


async def test_a_refusal_is_told_and_not_tried_again() -> None:
    def visit(client: Client, gateway: ScriptedGateway, case: Case) -> None:
        client.wait_state("closed")
        state = client.log("state")[-1].data
        assert (state["code"], state["message"]) == (case.seen, "No <b>"), case
        client.page.wait_for_timeout(PAUSE_MS)
        assert len(gateway.asked) == 1, case
        # The request is another one when the devices change.
        gateway.answers.append(case.good)
        client.call("tracker.subscribe('b')")
        client.wait_state("live")
        assert len(gateway.asked) == 2, case

    await meet(
        visit,
        Case("websocket", Answer((NO,), 1008), 1008),
        Case("websocket", Answer((HELLO, NO), 1009), 1009),
        Case("websocket", Answer((NO,), 4403), 4403),
        Case("sse", Answer(status=400, body=NO), 400),
        Case("sse", Answer(status=403, body=NO), 403),
        Case("sse", Answer(body=SSE_HELLO + sse("closed", code=4403, message="No <b>")), 4403),
    )


async def test_a_new_token_is_asked_for() -> None:
    def visit(client: Client, gateway: ScriptedGateway, case: Case) -> None:
        client.wait("log.some(([name]) => name === 'auth')")
        assert client.call("tracker.state") == "closed"
        gateway.answers.append(case.good)
        client.call("tracker.reconnect({ url: '/api/v1/stream?token=new' })")
        client.wait_state("live")
        assert gateway.asked[1]["token"] == "new"
        assert gateway.asked[1].get("last_event_id") == case.seen

    await meet(
        visit,
        Case("websocket", Answer((HELLO, EXPIRED), 4401), "e-1"),
        Case("sse", Answer(body=SSE_HELLO + sse("closed", code=4401, message="expired")), "e-1"),
        # Refused outright, nothing was heard of the device.
        Case("sse", Answer(status=401, body=EXPIRED), None),
    )


async def test_the_hint_is_obeyed() -> None:
    def visit(client: Client, gateway: ScriptedGateway, case: Case) -> None:
        client.wait_state("waiting")
        assert client.log("state")[-1].data["afterMs"] == case.seen
        gateway.answers.append(case.good)
        client.page.evaluate("() => dispatchEvent(new Event('online'))")
        assert client.call("tracker.state") == "waiting"
        client.wait_state("live")
        assert len(gateway.asked) == 2

    await meet(
        visit,
        Case("websocket", Answer((HELLO, envelope("reconnect", **HINT)), 1012), 1_234),
        Case("sse", Answer(body=SSE_HELLO + "retry: 1234\n" + sse("reconnect", **HINT)), 1_234),
        Case("sse", Answer(body="retry: 1234\n\n"), 1_234),
        Case("sse", Answer(status=429, headers={"Retry-After": "1"}), 1_000),
        Case("sse", Answer(status=503, headers={"Retry-After": "1"}), 1_000),
    )


@pytest.mark.slow
async def test_the_pauses_grow_until_the_network_is_back() -> None:
    def visit(client: Client, gateway: ScriptedGateway, case: Case) -> None:
        gateway.answers.extend([case.answer, case.answer])
        client.wait("log.filter(([, text]) => text.includes('waiting')).length === 3")
        states = [event.data for event in client.log("state")]
        pauses = [state["afterMs"] for state in states if state["state"] == "waiting"]
        for pause, ceiling in zip(pauses, (500, 1_000, 2_000), strict=True):
            assert ceiling / 2 <= pause <= ceiling
        gateway.answers.append(case.good)
        client.page.evaluate("() => dispatchEvent(new Event('online'))")
        client.wait_state("live")
        assert len(gateway.asked) == 4

    await meet(
        visit,
        Case("websocket", Answer((HELLO,), 1011)),
        Case("websocket", Answer((HELLO,), 1013)),
        Case("websocket", Answer((HELLO,), 4408)),
        Case("websocket", Answer((envelope("error", message="too many"),), 4429)),
        Case("sse", Answer(status=500)),
        Case("sse", Answer(status=429)),
        Case("sse", Answer(body=SSE_HELLO)),
        # A page that some network asks its users to log in with.
        Case("sse", Answer(body="<html>", headers={"Content-Type": "text/html"})),
    )


async def test_automatic_alternates_while_nothing_opens() -> None:
    def visit(client: Client, gateway: ScriptedGateway, case: Case) -> None:
        gateway.answers.extend([Answer(status=503), STAYS])
        client.wait_state("live")
        states = [event.data for event in client.log("state")]
        connecting = [state["transport"] for state in states if state["state"] == "connecting"]
        assert connecting[-2:] == ["sse", "websocket"]
        assert client.call("tracker.transport") == "websocket"
        # At once to SSE, and a pause before all is tried again.
        pauses = [state["afterMs"] for state in states if state["state"] == "waiting"]
        assert [pause > 0 for pause in pauses] == [False, True]

    await meet(visit, Case("auto", Answer(code=1011)))


async def test_a_prefix_and_parameters_of_the_address_stay() -> None:
    gateway = ScriptedGateway()
    gateway.answers.append(STAYS)

    def run(page: Page) -> None:
        client = Client(page, gateway.url, transport="websocket")
        client.wait_state("idle")
        client.page.evaluate(
            """() => {
              tracker.reconnect({ url: new URL("api/v1/stream?token=t%2F1&x=", document.baseURI) });
              tracker.subscribe(["ü/1&2", "+"]);
            }"""
        )
        client.wait_state("live")
        client.call("tracker.close()")

    async with gateway.serve():
        await in_browser(run, tolerate=NOISE)
    assert gateway.asked == [
        {
            "token": "t/1",
            "x": "",
            "ping": "20",
            "hello": "1",
            "device_ids": "ü/1&2,+",
        }
    ]
