"""What the bench counts and computes: framing, readers, latencies, verdicts."""

from __future__ import annotations

import math
import socket
import threading
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.framing import FramingError, Unit, sse_unit, websocket_unit
from bench.handshake import HandshakeError, check_head, request
from bench.latency import LatencyWindows, median, percentile
from bench.machine import CoreTimes, parse_core_times, parse_cpu_s
from bench.mark import Mark, Template, device_id, find_mark
from bench.publisher import Plan, publish, publish_packet, remaining_length
from bench.reader import SINGLY, KnownStream, Reader, event_name
from bench.report import Figure, Sense, Verdict, fails, number, table
from bench.scenarios import setting_variable

S = 1_000_000_000
DEVICES = (device_id(1), device_id(2))


def message(number: int, device: str = DEVICES[0], *, sent_ns: int = 0) -> bytes:
    return Template(device).fill(number, sent_ns)


def frame(text: bytes, opcode: int = 1) -> bytes:
    size = len(text)
    head = bytes((0x80 | opcode,))
    if size < 126:
        return head + bytes((size,)) + text
    if size < 65536:
        return head + b"\x7e" + size.to_bytes(2, "big") + text
    return head + b"\x7f" + size.to_bytes(8, "big") + text


def websocket_message(number: int, device: str = DEVICES[0], *, sent_ns: int = 0) -> bytes:
    payload = message(number, device, sent_ns=sent_ns)
    return frame(b'{"event":"message","data":%b}' % payload)


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


# -- marks


@pytest.mark.parametrize(
    "envelope",
    [
        b"%b",
        b'{"event":"message","data":%b}',
        b'{"event":"message","id":"a-1","data":%b}',
        b'{"event": "message", "data": %b}',
        b"event: message\ndata: %b",
    ],
)
def test_the_mark_is_found_in_every_envelope(envelope: bytes) -> None:
    text = envelope % message(7, sent_ns=123)
    assert find_mark(text) == Mark(DEVICES[0].encode(), 7, 123)


@given(st.binary(max_size=300))
def test_other_texts_have_no_mark(text: bytes) -> None:
    assert find_mark(text) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"event":"ping","data":{"type":"keep-alive"}}',
        b": heartbeat",
        b'{"MARK":"000001/00000000x/000000000000000001"}',
        b'{"MARK":"00000010000000001/000000000000000001"}',
        b'{"MARK":"000001/000000001/00000000000000000"}',
    ],
)
def test_what_only_looks_like_a_message_has_no_mark(text: bytes) -> None:
    assert find_mark(text) is None


def test_all_messages_have_one_length() -> None:
    assert {len(message(n, sent_ns=n)) for n in (0, 1, 999_999_999)} == {212}


# -- framing


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_websocket_frame_of_every_length_form(size: int) -> None:
    text = b"x" * size
    data = b"??" + frame(text) + b"next"
    assert websocket_unit(data, 2) == Unit(len(data) - 4, (text,))


def test_a_websocket_frame_is_incomplete_until_its_last_byte() -> None:
    for data in (frame(b"x" * 5), frame(b"x" * 200), frame(b"x" * 65536)):
        lengths = {*range(20), len(data) - 1}
        assert {websocket_unit(data[:n], 0) for n in lengths if n < len(data)} == {None}


def test_control_frames_hold_no_text_and_a_close_frame_closes() -> None:
    assert websocket_unit(frame(b"", 9), 0) == Unit(2, ())
    assert websocket_unit(frame(b"\x03\xe8", 8), 0) == Unit(4, (), closes=True)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400", "0x48"),
        (b"\x01\x01x", "0x01"),
        (b"\xc1\x01x", "0xc1"),
        (b"\x81\x81xxxxx", "masked"),
    ],
)
def test_what_is_no_websocket_frame_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(FramingError, match=why):
        websocket_unit(data, 0)


def test_an_event_in_a_chunk() -> None:
    data = chunk(b"event: message\ndata: 1\n\n")
    assert sse_unit(data + b"more", 0) == Unit(len(data), (b"event: message\ndata: 1",))
    assert {sse_unit(data[:n], 0) for n in range(len(data))} == {None}


def test_several_events_in_a_chunk_and_an_event_in_several_chunks() -> None:
    two = chunk(b"data: 1\n\ndata: 2\n\n")
    assert sse_unit(two, 0) == Unit(len(two), (b"data: 1", b"data: 2"))
    split = chunk(b"data: ") + chunk(b"1\n") + chunk(b"\n")
    assert sse_unit(split, 0) == Unit(len(split), (b"data: 1",))


def test_the_last_chunk_closes() -> None:
    assert sse_unit(b"0\r\n\r\n", 0) == Unit(5, (), closes=True)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"zz\r\nx\r\n", "b'zz'"),
        (b"1\r\nxyz\r\n", "followed by b'yz'"),
        (b"x" * 40, "no chunk size"),
    ],
)
def test_what_is_no_chunk_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(FramingError, match=why):
        sse_unit(data, 0)


# -- readers


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, and the rest as one."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


@given(
    st.lists(st.lists(st.integers(1, 700), max_size=20), min_size=2, max_size=4),
    st.booleans(),
    st.data(),
)
def test_every_client_counts_every_message_however_its_bytes_are_cut(
    cuts: list[list[int]], is_sse: bool, data: st.DataObject
) -> None:
    """Pings between the messages, elsewhere for each client; readings in any order."""
    messages = [
        chunk(b"event: message\ndata: %b\n\n" % message(n, sent_ns=n))
        if is_sse
        else websocket_message(n, sent_ns=n)
        for n in range(8)
    ]
    ping = chunk(b": heartbeat\n\n") if is_sse else frame(b"", 9)
    known = KnownStream(sse_unit if is_sse else websocket_unit)
    readers = [Reader(known) for _ in cuts]
    waiting = []
    for sizes in cuts:
        units = list(messages)
        for place in data.draw(st.lists(st.integers(0, 8), max_size=3)):
            units.insert(place, ping)
        waiting.append(cut(b"".join(units), sizes))
    windows: list[dict[int, int]] = [defaultdict(int) for _ in cuts]
    now_ns = 0
    while any(waiting):
        index = data.draw(st.sampled_from([i for i, pieces in enumerate(waiting) if pieces]))
        now_ns += 1000
        readers[index].feed(waiting[index].pop(0), now_ns, windows[index])
    for reader, window in zip(readers, windows, strict=True):
        assert (reader.received, reader.is_alone) == (8, False)
        assert sum(window.values()) == 8
        assert (reader.tally().lost({DEVICES[0].encode(): 8}), reader.tally().misplaced) == (0, 0)


def test_the_latency_of_each_message_is_from_its_own_mark() -> None:
    reader = Reader(KnownStream(websocket_unit))
    window: dict[int, int] = defaultdict(int)
    data = websocket_message(0, sent_ns=1000) + websocket_message(1, sent_ns=5000)
    reader.feed(data, 9000, window)
    assert window == {8: 1, 4: 1}


def test_a_reading_of_many_messages_counts_them_as_late_as_the_oldest() -> None:
    reader = Reader(KnownStream(websocket_unit))
    window: dict[int, int] = defaultdict(int)
    count = SINGLY + 1
    data = b"".join(websocket_message(n, sent_ns=n * 1000) for n in range(count))
    reader.feed(data, 1_000_000, window)
    assert window == {1000: count}


def test_without_a_window_messages_count_and_latencies_do_not() -> None:
    reader = Reader(KnownStream(websocket_unit))
    reader.feed(websocket_message(0), 1, None)
    assert reader.received == 1


def test_a_client_that_lost_a_message_is_read_alone_and_its_loss_counted() -> None:
    known = KnownStream(websocket_unit)
    first, second = Reader(known), Reader(known)
    frames = [websocket_message(n) for n in range(4)]
    first.feed(b"".join(frames), 1, None)
    second.feed(frames[0] + frames[1][:50], 1, None)
    second.feed(frames[1][50:] + frames[3], 1, None)
    assert (first.received, second.received) == (4, 3)
    assert (first.is_alone, second.is_alone) == (False, True)
    published = {DEVICES[0].encode(): 4}
    assert (first.tally().lost(published), second.tally().lost(published)) == (0, 1)


def test_a_loss_that_all_clients_share_is_counted_for_each() -> None:
    known = KnownStream(websocket_unit)
    readers = [Reader(known), Reader(known)]
    for reader in readers:
        reader.feed(websocket_message(0) + websocket_message(2), 1, None)
    published = {DEVICES[0].encode(): 3, DEVICES[1].encode(): 1}
    assert [reader.tally().lost(published) for reader in readers] == [2, 2]


def test_doubled_and_late_messages_are_misplaced_and_do_not_hide_a_loss() -> None:
    reader = Reader(KnownStream(websocket_unit))
    reader.feed(b"".join(websocket_message(n) for n in (0, 2, 1, 2)), 1, None)
    tally = reader.tally()
    assert (tally.received, tally.misplaced) == ({DEVICES[0].encode(): 2}, 2)
    assert tally.lost({DEVICES[0].encode(): 3}) == 1


def test_events_without_a_mark_are_counted_by_name_and_a_close_ends_the_reader() -> None:
    reader = Reader(KnownStream(websocket_unit))
    ping = frame(b'{"event":"ping","data":{"type":"keep-alive"}}')
    reader.feed(ping + websocket_message(0) + ping + frame(b"\x03\xe8", 8), 1, None)
    assert (reader.events, reader.received, reader.closed) == (Counter(ping=2), 1, True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b": heartbeat", "comment"),
        (b"event: gap\ndata: {}", "gap"),
        (b'{"event":"upstream","data":{}}', "upstream"),
        (b"[]", "unnamed"),
        (b"nothing", "unnamed"),
    ],
)
def test_the_name_of_an_event(text: bytes, name: str) -> None:
    assert event_name(text) == name


# -- handshakes


def test_a_request_offers_the_key_that_the_floor_knows() -> None:
    assert request("websocket", ["1", "2"]) == (
        b"GET /api/v1/stream?device_ids=1,2 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )


def test_an_answer_is_accepted_or_refused() -> None:
    check_head(b"HTTP/1.1 101 \r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "websocket")
    check_head(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked",
        "sse",
    )
    with pytest.raises(HandshakeError, match="503"):
        check_head(b"HTTP/1.1 503 \r\nretry-after: 1", "sse")
    with pytest.raises(HandshakeError, match="websocket"):
        check_head(b"HTTP/1.1 101 \r\nsec-websocket-accept: other", "websocket")


# -- statistics


@given(st.lists(st.integers(0, 50), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_the_smallest_value_that_covers_its_part(
    values: list[int], fraction: float
) -> None:
    found = percentile(Counter(values), fraction)
    assert sum(value <= found for value in values) >= fraction * len(values) * (1 - 1e-12)
    assert sum(value < found for value in values) < fraction * len(values) or found == min(values)


def test_percentiles_and_medians_of_known_values() -> None:
    counts = {10: 98, 20: 1, 30: 1}
    assert [percentile(counts, p) for p in (0.5, 0.98, 0.99, 0.999, 1)] == [10, 10, 20, 30, 30]
    assert math.isnan(percentile({}, 0.5))
    assert [median([3]), median([4, 1]), median([9, 1, 2])] == [3, 2.5, 2]
    assert math.isnan(median([]))
    assert math.isnan(median([1, math.nan, 2]))


def test_windows_are_whole_seconds_and_the_last_takes_the_rest() -> None:
    windows = LatencyWindows(10 * S, 10 * S + 2 * S + S // 2)
    assert windows.span(0) == (None, 10 * S)
    first, first_ends = windows.span(10 * S)
    last, last_ends = windows.span(12 * S)
    assert (first_ends, last_ends) == (11 * S, 10 * S + 2 * S + S // 2)
    assert first is not None
    assert last is not None
    assert windows.span(11 * S)[0] is last
    assert windows.span(last_ends)[0] is None
    first[1000] += 3
    last[5000] += 1
    assert windows.count == 4
    assert windows.of_windows_ms(0.99) == 3
    assert windows.of_all_ms(0.5) == 1


def test_the_times_that_the_kernel_tells() -> None:
    assert parse_cpu_s("12 (a) b) S " + " ".join(map(str, range(4, 40)))) == (14 + 15) / 100
    text = "cpu  100 50 250 400 100 10 90 20 0 0\ncpu0 1 2 3 4 5 6 7 8\nintr 5\n"
    times = parse_core_times(text)
    assert times == {"cpu": CoreTimes(4, 1, 5, 0.2), "cpu0": CoreTimes(0.06, 0.13, 0.09, 0.08)}
    later = parse_core_times("cpu  200 50 250 500 100 10 90 220 0 0\n")["cpu"]
    assert later.since(times["cpu"]) == CoreTimes(1, 0, 1, 2)
    assert (later.since(times["cpu"]).busy_part, later.since(times["cpu"]).steal_part) == (
        0.75,
        0.5,
    )
    assert later.since(later).steal_part == 0


# -- the publisher


@pytest.mark.parametrize(
    ("size", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001")],
)
def test_the_lengths_of_mqtt(size: int, encoded: str) -> None:
    assert remaining_length(size).hex() == encoded


def test_the_publisher_sends_each_device_its_numbers_in_turn() -> None:
    """Against a broker that only says yes, and keeps what comes."""
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(10)
                peer.recv(100)
                peer.sendall(b"\x20\x02\x00\x00")
                while data := peer.recv(65536):
                    received.extend(data)

        thread = threading.Thread(target=accept)
        thread.start()
        report = publish(
            Plan(
                port=listener.getsockname()[1],
                devices=list(DEVICES),
                rate=10_000,
                count=5,
                start_ns=0,
                first=2,
            )
        )
        thread.join(10)
    assert set(report) == {"took_s", "late_p50_ms", "late_p99_ms"}
    data = bytes(received).removesuffix(b"\xe0\0")
    size = len(publish_packet(Template(DEVICES[0]).topic, message(0)))
    marks = [find_mark(data[at : at + size]) for at in range(0, len(data), size)]
    assert [mark and (mark.device.decode(), mark.number) for mark in marks] == [
        (DEVICES[0], 1),
        (DEVICES[1], 1),
        (DEVICES[0], 2),
        (DEVICES[1], 2),
        (DEVICES[0], 3),
    ]


# -- the report


@pytest.mark.parametrize(
    ("sense", "measured", "verdict"),
    [
        (Sense.AT_LEAST, 21, Verdict.AIM),
        (Sense.AT_LEAST, 10, Verdict.MUST),
        (Sense.AT_LEAST, 9, Verdict.CLOSE),
        (Sense.AT_LEAST, 8.9, Verdict.MISSED),
        (Sense.AT_MOST, 10, Verdict.AIM),
        (Sense.AT_MOST, 21, Verdict.CLOSE),
        (Sense.AT_MOST, 22.1, Verdict.MISSED),
        (Sense.AT_MOST, math.nan, Verdict.FAILED),
    ],
)
def test_a_figure_is_held_against_its_bounds(
    sense: Sense, measured: float, verdict: Verdict
) -> None:
    must, aim = (10, 20) if sense is Sense.AT_LEAST else (20, 10)
    figure = Figure(scenario="S", name="f", measured=measured, sense=sense, must=must, aim=aim)
    assert figure.verdict is verdict
    assert fails([figure]) is (verdict in (Verdict.MISSED, Verdict.FAILED))


def test_not_one_message_may_be_lost() -> None:
    assert Figure(scenario="S", name="lost", measured=0, must=0).verdict is Verdict.MUST
    assert Figure(scenario="S", name="lost", measured=1, must=0).verdict is Verdict.MISSED


def test_what_has_no_bound_and_what_was_skipped_fail_nothing() -> None:
    shown = Figure(scenario="S", name="f", measured=1)
    skipped = Figure(scenario="S", name="f", verdict_without_figure=Verdict.SKIPPED)
    assert [shown.verdict, skipped.verdict] == [Verdict.SHOWN, Verdict.SKIPPED]
    assert not fails([shown, skipped])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0561, "0.0561"),
        (2.5, "2.50"),
        (32.04, "32.0"),
        (999.6, "1000"),
        (9999, "9999"),
        (296_120, "296 k"),
        (3e6, "3 M"),
        (1_234_567, "1.23 M"),
    ],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_table() -> None:
    figures = [
        Figure(scenario="S2b", name="p99", measured=0.8, unit=" ms", must=3, aim=1, beside="x"),
        Figure(scenario="S3", name="f", verdict_without_figure=Verdict.SKIPPED, beside="why"),
    ]
    assert table(figures) == (
        "scenario  figure  must    aim     measured           beside it\n"
        "--------------------------------------------------------------\n"
        "S2b       p99     ≤ 3 ms  ≤ 1 ms  0.800 ms  aim      x\n"
        "S3        f                                 skipped  why"
    )


def test_a_setting_of_the_gateway_is_found_by_name() -> None:
    assert setting_variable("stall_s") == "TRACKER_STREAM__STALL_S"
    assert setting_variable("no_such_setting") is None
