"""`tracker.replay_progress`: the bar, the achieved rate, the summary."""

from __future__ import annotations

from tracker.replay import Record, Recording, Repeat, schedule
from tracker.replay_progress import ReplayProgress


def recording(*times_s: float) -> Recording:
    return Recording(
        name="made up",
        records=tuple(
            Record(t_s=t_s, device_id=f"{index % 2}", lat_deg=1, lon_deg=2)
            for index, t_s in enumerate(times_s)
        ),
    )


def test_once() -> None:
    recordings = [recording(*range(0, 101, 10))]
    progress = ReplayProgress(recordings, speed=10, repeat=Repeat.ONCE)
    due = progress.follow(schedule(recordings, speed=10))
    assert progress.line(0) == (
        "[........................]   0%  0 of 11  0.0 messages/s  0.0x (wanted 10x)  0:10 left"
    )
    assert progress.summary() == "published 0 reports of 0 devices"
    for _ in range(6):
        progress.note_published(next(due).at_s)
    assert progress.line(5) == (
        "[#############...........]  55%  6 of 11  1.2 messages/s  10.0x (wanted 10x)  0:05 left"
    )
    assert progress.summary() == "published 6 reports of 2 devices in 5.0 s: 1.0 messages/s"


def test_in_a_loop() -> None:
    recordings = [recording(0, 10)]
    progress = ReplayProgress(recordings, speed=1, repeat=Repeat.FOREVER)
    due = progress.follow(schedule(recordings, speed=1, repeat=Repeat.FOREVER))
    progress.line(0)
    for _ in range(4):
        progress.note_published(next(due).at_s)
    # a round is the 10 s between the reports, and as much again before the next
    assert progress.line(10) == (
        "[############............]  50%  4 (round 2)  0.4 messages/s  3.0x (wanted 1x)"
    )


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    recordings = [recording(*range(1000))]
    progress = ReplayProgress(recordings, speed=1, repeat=Repeat.ONCE)
    due = progress.follow(schedule(recordings, speed=1))
    line = ""
    for second in range(100):
        next(due)
        progress.note_published(second)
        line = progress.line(second)
    assert "1.0 messages/s  1.0x" in line
    assert "0.0 messages/s  0.0x" in progress.line(300)


def test_a_recording_of_one_instant() -> None:
    recordings = [recording(0, 0)]
    progress = ReplayProgress(recordings, speed=1, repeat=Repeat.ONCE)
    due = progress.follow(schedule(recordings, speed=1))
    next(due)
    progress.note_published(0)
    assert progress.line(0).endswith(" 50%  1 of 2  0.0 messages/s  0.0x (wanted 1x)  0:00 left")
    assert progress.summary() == "published 1 report of 1 device"


def test_hours() -> None:
    recordings = [recording(0, 3723)]
    progress = ReplayProgress(recordings, speed=1, repeat=Repeat.ONCE)
    assert progress.line(0).endswith("1:02:03 left")
