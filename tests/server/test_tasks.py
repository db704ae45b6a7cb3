"""`tracker.server.tasks`: what an app still says once its connection is not its own."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

from tracker.server.tasks import ConnectionTasks

BODY: Any = {"type": "http.response.body", "body": b"x", "more_body": True}
SCOPE = cast(Scope, {"type": "http"})


class Rig:
    """The tasks of a connection, and what was sent on it."""

    def __init__(self) -> None:
        self.is_handed_over = False
        self.sent: list[ASGISendEvent | None] = []
        self.tasks = ConnectionTasks(lambda: self.is_handed_over)

    async def send(self, event: ASGISendEvent | None) -> None:
        """What Hypercorn's stream would send; None ends it."""
        self.sent.append(event)
        await trio.lowlevel.checkpoint()


async def test_what_an_app_sends_is_sent_and_then_that_it_has_returned() -> None:
    rig = Rig()

    async def app(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        assert scope is SCOPE
        assert await receive() == {"type": "http.disconnect"}
        await send(BODY)

    async with rig.tasks as tasks:
        put = await tasks.spawn_app(cast(AppWrapper, app), Config(), SCOPE, rig.send)
        await put(cast(ASGIReceiveEvent, {"type": "http.disconnect"}))
    assert rig.sent == [BODY, None]


async def test_after_the_hand_over_nothing_is_sent() -> None:
    """Not even that the app has returned: Hypercorn would end the response, or answer 500."""
    rig = Rig()

    async def app(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        await send(BODY)
        rig.is_handed_over = True
        await send(BODY)

    async with rig.tasks as tasks:
        await tasks.spawn_app(cast(AppWrapper, app), Config(), SCOPE, rig.send)
    assert rig.sent == [BODY]


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_on_the_way_out_of_a_cancelled_connection_nothing_is_sent(
    is_handed_over: bool,
) -> None:
    rig = Rig()

    async def app(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        rig.is_handed_over = is_handed_over
        await trio.sleep_forever()

    with trio.CancelScope() as connection:
        async with rig.tasks as tasks:
            await tasks.spawn_app(cast(AppWrapper, app), Config(), SCOPE, rig.send)
            await trio.testing.wait_all_tasks_blocked()
            connection.cancel()
    assert connection.cancelled_caught
    assert rig.sent == []


async def test_an_app_that_fails_is_logged_and_ended(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    config = Config()
    config.errorlog = logging.getLogger("tracker.server")

    async def app(*_: Any) -> None:
        raise ValueError("a bug")

    async with rig.tasks as tasks:
        await tasks.spawn_app(cast(AppWrapper, app), config, SCOPE, rig.send)
    assert rig.sent == [None]
    assert [record.getMessage() for record in caplog.records] == ["Error in ASGI Framework"]
