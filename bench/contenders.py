"""The servers that are measured: the gateway, and the two baselines beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """A server on the gateway's URL and topic: its name, command and environment.

    `{port}` and `{mqtt_port}` in the command stand for where it listens, and its broker.
    """

    name: str
    arguments: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self, *, port: int, mqtt_port: int) -> list[str]:
        """What starts it."""
        return [
            sys.executable,
            *(text.format(port=port, mqtt_port=mqtt_port) for text in self.arguments),
        ]


def tracker(*, bind: str = "127.0.0.1", **env: str) -> Contender:
    """The gateway, as an operator starts it, with these settings in its environment."""
    return Contender(
        "tracker",
        (
            *("-m", "tracker", "serve", "--log-level", "warning"),
            *("--mqtt-url", "mqtt://127.0.0.1:{mqtt_port}", "--bind", bind + ":{port}"),
        ),
        # No stop of a run waits for clients that are gone already.
        {"TRACKER_STREAM__DRAIN_S": "0.1", **env},
    )


TRACKER = tracker()
PLAIN = Contender(
    "plain", (str(_HERE / "plain.py"), "--port", "{port}", "--mqtt-port", "{mqtt_port}")
)
FLOOR = Contender(
    "floor",
    (
        *(str(_HERE / "floor.py"), "--mode", "send"),
        *("--port", "{port}", "--mqtt-port", "{mqtt_port}"),
    ),
)
