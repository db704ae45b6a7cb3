"""The history file: what is read is what was written, and what is damaged is one warning."""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeOutbox
from tracker.domain.history import HistoryLimits
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.position import Position
from tracker.domain.transport import WEBSOCKET_LINES
from tracker.history_file import Past, read_history, write_history

EPOCH = "19abc"


def message(sequence: int, device_id: str, data: bytes, *, age_s: float = 0.0) -> Message:
    received_ns = time.monotonic_ns() - int(age_s * 1e9)
    return Message(sequence, device_id, data, received_ns, epoch=EPOCH.encode())


def make_hub(*messages: Message, limits: HistoryLimits | None = None) -> Hub:
    hub = Hub(HubSettings(history=limits or HistoryLimits()), epoch=EPOCH)
    hub.publish_batch(messages)
    return hub


def some_hub() -> Hub:
    return make_hub(
        message(1, "A", b'{"timestamp":1.10,"data":{"DEVICE_ID":"A"}}', age_s=60.0),
        message(2, "B", '{"timestamp":"é","data":{"DEVICE_ID":"B","x":1e400}}'.encode()),
        message(3, "A", b'{"timestamp":123456789012345678901234567890, "data":{}}'),
    )


def restored(past: Past, *, is_whole: bool, limits: HistoryLimits | None = None) -> Hub:
    hub = Hub(HubSettings(history=limits or HistoryLimits()), epoch="another")
    hub.restore(past.position, past.messages, past.losses, is_whole=is_whole)
    return hub


def resume_of(hub: Hub, sequence: int, *device_ids: str) -> tuple[str, int | None]:
    outbox = FakeOutbox()
    options = StreamOptions(last_event_id=f"{EPOCH}-{sequence}")
    with hub.open_stream(device_ids, outbox, WEBSOCKET_LINES, options) as stream:
        stream.flush()
    told = json.loads(outbox.kernel.split(b"\n")[0])["data"]
    return told["status"], told["missed"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path, hub = tmp_path / "history", some_hub()
    write_history(path, hub)
    past = read_history(path)
    assert past is not None
    assert past.position == Position(EPOCH, 3)
    kept = hub.history.all_messages()
    assert [(m.sequence, m.device_id, m.data, m.id) for m in past.messages] == [
        (m.sequence, m.device_id, m.data, m.id) for m in kept
    ]
    for old, new in zip(kept, past.messages, strict=True):
        assert abs(old.received_ns - new.received_ns) < 10_000_000_000  # only time went by
    assert os.listdir(tmp_path) == ["history"]


def test_ages_go_on_while_the_gateway_is_away(tmp_path: Path) -> None:
    path = tmp_path / "history"
    write_history(path, some_hub())
    head, rest = path.read_bytes().split(b"\n", 1)
    # As if it had been written ten minutes ago; the sum is then that of other bytes.
    value = json.loads(head)
    value["written_utc_s"] -= 600.0
    path.write_bytes(_resummed(json.dumps(value).encode() + b"\n" + rest))
    past = read_history(path)
    assert past is not None
    ages_s = [(time.monotonic_ns() - m.received_ns) / 1e9 for m in past.messages]
    assert [round(age_s, -1) for age_s in ages_s] == [660, 600, 600]


def test_a_clock_that_was_set_back_makes_nothing_younger(tmp_path: Path) -> None:
    path = tmp_path / "history"
    write_history(path, some_hub())
    head, rest = path.read_bytes().split(b"\n", 1)
    value = json.loads(head)
    value["written_utc_s"] += 86_400.0
    path.write_bytes(_resummed(json.dumps(value).encode() + b"\n" + rest))
    past = read_history(path)
    assert past is not None
    now_ns = time.monotonic_ns()
    assert round((now_ns - past.messages[0].received_ns) / 1e9, -1) == 60
    assert all(m.received_ns <= now_ns for m in past.messages)


def _resummed(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    body = b"".join(lines[:-1])
    return body + b'{"crc32":%d}\n' % zlib.crc32(body)


def test_a_resume_over_a_restart_is_continued_only_if_the_broker_bridged_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history"
    write_history(path, some_hub())
    past = read_history(path)
    assert past is not None
    assert resume_of(restored(past, is_whole=True), 1, "A", "B") == ("continued", 2)
    assert resume_of(restored(past, is_whole=False), 1, "A", "B") == ("partial", None)


def test_what_the_history_lacked_it_lacks_after_a_restart_too(tmp_path: Path) -> None:
    path = tmp_path / "history"
    limits = HistoryLimits(messages=2)
    hub = make_hub(*[message(n, "A", b'{"n":%d}' % n) for n in range(1, 8)], limits=limits)
    hub.publish_batch([message(8, "B", b"{}")])
    assert resume_of(hub, 4, "A") == ("partial", None)
    write_history(path, hub)
    past = read_history(path)
    assert past is not None
    again = restored(past, is_whole=True, limits=limits)
    assert [resume_of(again, n, "A")[0] for n in (4, 5)] == ["partial", "continued"]
    assert resume_of(again, 0, "B") == ("continued", 1)
    # With narrower bounds it lacks more.
    narrow = restored(past, is_whole=True, limits=HistoryLimits(messages=1))
    assert [resume_of(narrow, n, "A")[0] for n in (5, 6)] == ["partial", "continued"]


def test_an_outage_before_the_restart_is_not_forgotten(tmp_path: Path) -> None:
    path, hub = tmp_path / "history", some_hub()
    hub.note_upstream(is_lost=True)
    hub.publish_batch([message(4, "A", b"{}")])
    write_history(path, hub)
    past = read_history(path)
    assert past is not None
    again = restored(past, is_whole=True)
    assert [resume_of(again, n, "A")[0] for n in (3, 4)] == ["partial", "continued"]


def test_no_file_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_history(tmp_path / "history") is None
    assert warnings(caplog) == []


def test_a_folder_that_is_not_there_is_told_and_nothing_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "missing" / "history"
    write_history(path, some_hub())
    assert warnings(caplog) == [
        f"the history was not written to {path}: [Errno 2] No such file or directory: '{path}.new'"
    ]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history"
    write_history(path, some_hub())
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    write_history(path, make_hub())
    assert path.read_bytes() == before
    assert warnings(caplog) == [
        f"the history was not written to {path}: [Errno 28] No space left on device"
    ]


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "foreign": b"hello\n",
    "binary": bytes(range(256)) * 10,
    "another format": b'{"format":"x","epoch":"a","sequence":1,"written_utc_s":1,"messages":0,'
    b'"losses":{"gone":{},"forgotten":0,"marked":-1}}\n{"crc32":0}\n',
    "deep": b"[" * 100_000,
    "deep inside": b'{"format":' + b"[" * 100_000,
    "not UTF-8": b'{"format":"\xff"}\n',
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_history_is_one_warning(
    data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history"
    path.write_bytes(data)
    assert read_history(path) is None
    (warning,) = warnings(caplog)
    assert warning.startswith(f"the history in {path} cannot be used, starting without: ")


def test_a_directory_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_history(tmp_path) is None
    assert len(warnings(caplog)) == 1


def test_wherever_it_is_cut_or_changed_it_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history"
    write_history(path, some_hub())
    whole = path.read_bytes()

    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_history(path) is None, size

    @given(st.integers(0, len(whole) - 2), st.integers(0, 255))
    def change(at: int, value: int) -> None:
        data = whole[:at] + bytes((value,)) + whole[at + 1 :]
        path.write_bytes(data)
        past = read_history(path)
        assert (past is None) == (json_of(data) != json_of(whole)), (at, value)

    change()
    assert all(warning.startswith("the history in") for warning in warnings(caplog))


def json_of(data: bytes) -> bytes | object:
    """What counts of a file: of its last line only the value."""
    body, _, foot = data.rstrip(b"\n").rpartition(b"\n")
    try:
        return body, json.loads(foot)
    except ValueError:
        return data


def test_a_file_that_cannot_be_removed_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history"
    write_history(path, some_hub())
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert read_history(path) is None
    assert warnings(caplog) == [
        f"the history in {path} cannot be used, starting without: it cannot be removed, and it"
        " may be read once only"
    ]
