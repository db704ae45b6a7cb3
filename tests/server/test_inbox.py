"""`tracker.server.inbox`: who takes what a peer sends, and lets go of it at the end."""

from __future__ import annotations

from typing import cast

from hypercorn.events import Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from tracker.server.inbox import NO_INBOX, HypercornInbox


class FakeWrapper:
    """Hypercorn's protocol of a connection, in its version `protocol`."""

    def __init__(self, protocol: H11Protocol | H2Protocol) -> None:
        self.protocol = protocol
        self.handled: list[Event] = []

    async def handle(self, event: Event) -> None:
        self.handled.append(event)


def make_inbox(kind: type[H11Protocol] | type[H2Protocol]) -> tuple[HypercornInbox, FakeWrapper]:
    # Neither is ever asked to do anything: a blank one will do.
    protocol = kind.__new__(kind)
    protocol.stream = object()  # type: ignore[union-attr]  # what stands for one
    wrapper = FakeWrapper(protocol)
    return HypercornInbox(cast(ProtocolWrapper, wrapper)), wrapper


async def test_hypercorn_gets_the_bytes_as_they_came() -> None:
    inbox, wrapper = make_inbox(H11Protocol)
    await inbox.handle(b"GET / HTTP/1.1\r\n\r\n")
    assert wrapper.handled == [RawData(b"GET / HTTP/1.1\r\n\r\n")]


def test_the_protocol_is_parted_from_its_stream() -> None:
    """Each holds the other, and both the connection: `test_collector` sees them freed."""
    inbox, wrapper = make_inbox(H11Protocol)
    inbox.let_go()
    inbox.let_go()
    assert isinstance(wrapper.protocol, H11Protocol)
    assert wrapper.protocol.stream is None


def test_one_of_another_kind_is_left_alone() -> None:
    inbox, wrapper = make_inbox(H2Protocol)
    stream = vars(wrapper.protocol)["stream"]
    inbox.let_go()
    assert vars(wrapper.protocol)["stream"] is stream


async def test_nobody_forgets_what_comes() -> None:
    await NO_INBOX.handle(b"anything")
    NO_INBOX.let_go()
