"""The doctor's arithmetic: clocks that differ, and where it publishes."""

from __future__ import annotations

import email.utils
import time

import pytest

from tracker.doctor.finding import Finding, Outcome
from tracker.doctor.gateway_checks import Answer, check_clock
from tracker.doctor.stream_checks import topic_to_publish


def clock_finding(date: str | None, sent_s: float = 1000.2, received_s: float = 1000.4) -> Finding:
    headers = {} if date is None else {"date": date}
    findings: list[Finding] = []
    check_clock(Answer(200, headers, b"", sent_s, received_s), findings.append)
    return findings[0]


@pytest.mark.parametrize(
    ("at_s", "outcome", "detail"),
    [
        (1000, Outcome.PASSED, "that of the answer and ours agree to the second"),
        (1005, Outcome.PASSED, "that of the answer and ours agree to the second"),
        (995, Outcome.PASSED, "that of the answer and ours agree to the second"),
        (1006, Outcome.FAILED, "that of the answer is 6 s ahead of ours"),
        (940, Outcome.FAILED, "that of the answer is 59 s behind ours"),
    ],
)
def test_clock_skew(at_s: float, outcome: Outcome, detail: str) -> None:
    finding = clock_finding(email.utils.formatdate(at_s, usegmt=True))
    assert (finding.outcome, finding.detail) == (outcome, detail)


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_no_clock(date: str | None) -> None:
    assert clock_finding(date).outcome is Outcome.NOT_APPLICABLE


def test_now_is_now() -> None:
    now_s = time.time()
    finding = clock_finding(email.utils.formatdate(now_s, usegmt=True), now_s, now_s)
    assert finding.outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("trackers/#", "trackers/tracker-doctor"),
        ("fleet/+/gps", "fleet/tracker-doctor/gps"),
        ("$share/g/fleet/+/#", "fleet/tracker-doctor/tracker-doctor"),
        ("#", "tracker-doctor"),
        ("one/topic", "one/topic"),
    ],
)
def test_where_the_doctor_publishes(topic_filter: str, topic: str) -> None:
    assert topic_to_publish(topic_filter) == topic
