"""`tracker.top.table`: the frame, on wide and narrow terminals."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tests.top.observations import observation
from tracker.terminal.text import cells
from tracker.top.observation import Connection, Observation, Totals
from tracker.top.rates import Rates
from tracker.top.table import render

TOTALS = Totals(
    total_messages_processed=10,
    active_subscribers=5,
    devices_being_monitored=1,
    connections={"websocket": 2, "sse": 1},
    messages_delivered=100,
    messages_dropped=30,
    messages_waiting=12,
    gaps=3,
    resumes={"continued": 2, "partial": 1},
)
SEEN = observation(
    Connection(
        seat=4,
        transport="sse",
        address="203.0.113.7",
        user_agent="evil\x1b[2J\u202e",
        age_s=3700,
        devices=3,
        mode="drop_new",
        lag_s=12.34,
        waiting=12,
        delivered=50,
        dropped=30,
    ),
    Connection(
        seat=1, transport="websocket", address="::1", age_s=5, devices=1, mode="latest", lag_s=0.25
    ),
    Connection(seat=2, transport="websocket", address="a.sock", age_s=5, devices=1, mode="latest"),
    total=5,
    totals=TOTALS,
)
RATES = Rates([1.0, None, 0.0], published=10.0, delivered_in_all=0.0)


def frame(
    seen: Observation = SEEN,
    rates: Rates = RATES,
    problem: str = "",
    width: int = 110,
    lines: int = 24,
    colours: bool = False,
) -> list[str]:
    return render(seen, rates, problem=problem, width=width, lines=lines, colours=colours)


def test_wide() -> None:
    assert [line.rstrip() for line in frame()] == [
        "5 connections (2 websocket, 1 sse)  5 subscriptions  1 device  in 10.0/s  out 0/s",
        "12 waiting  30 dropped  3 gaps  resumes: 2 continued, 1 partial",
        "",
        "   LAG  WAITING  DROPPED      RATE  TRANSPORT  MODE      DEVICES     AGE  ADDRESS"
        "      USER AGENT",
        "  12 s       12       30     1.0/s  sse        drop_new        3  62 min  203.0.113.7"
        r"  evil\x1b[2J\u202e",
        "250 ms        -        -         ?  websocket  latest          1   5.0 s  ::1          -",
        "     -        -        -         -  websocket  latest          1   5.0 s  a.sock       -",
        "… and 2 more, none slower",
    ]


def test_what_is_wrong() -> None:
    lost = observation(totals=Totals(mqtt_connected=False))
    assert frame(lost, Rates([]), "no way\x1b[2J")[2:4] == [
        "the gateway has no broker: no message can come",
        r"NO ANSWER: no way\x1b[2J",
    ]


def test_the_slow_are_red_and_who_lost_something_yellow() -> None:
    late, fine, dropping = (
        Connection(seat=1, lag_s=1.0),
        Connection(seat=2, lag_s=0.5),
        Connection(seat=3, dropped=1),
    )
    painted = frame(observation(late, fine, dropping), Rates([None] * 3), colours=True)[-3:]
    assert [line[:5] for line in painted] == ["\x1b[31m", "500 m", "\x1b[33m"]


def test_columns_go_before_they_are_cut() -> None:
    headers = {" ".join(frame(width=width)[3].split()) for width in range(60, 120)}
    assert headers >= {
        "LAG WAITING DROPPED RATE TRANSPORT MODE DEVICES AGE ADDRESS USER AGENT",
        "LAG WAITING DROPPED RATE TRANSPORT DEVICES AGE ADDRESS USER AGENT",
        "LAG WAITING DROPPED RATE AGE ADDRESS USER AGENT",
    }


def test_what_does_not_fit_below_is_counted() -> None:
    many = observation(*(Connection(seat=seat) for seat in range(100)), total=5000)
    lines = frame(many, Rates([None] * 100), lines=10)
    assert len(lines) == 10
    assert lines[-1] == "… and 4995 more, none slower"


@given(
    st.lists(
        st.builds(
            Connection,
            seat=st.integers(0, 10),
            transport=st.text(max_size=10),
            address=st.text(max_size=50),
            user_agent=st.text(max_size=200),
            mode=st.text(max_size=10),
            lag_s=st.floats(0, 1e7),
            dropped=st.integers(0, 10**9),
        ),
        max_size=20,
    ),
    st.integers(1, 200),
    st.integers(1, 40),
)
def test_whatever_the_size_it_fits_and_holds_no_control_character(
    connections: list[Connection], width: int, lines: int
) -> None:
    seen, rates = observation(*connections, totals=TOTALS), Rates([None] * len(connections))
    plain = frame(seen, rates, "x\x1b", width, lines)
    assert len(plain) <= lines
    for line in plain:
        assert line.isprintable()
        assert cells(line) <= width
    painted = frame(seen, rates, "x\x1b", width, lines, colours=True)
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in painted] == plain
