"""MQTT topics and the wildcards that match them (MQTT 3.1.1 §4.7)."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

MAX_TOPIC_LENGTH = 65535


@dataclasses.dataclass(frozen=True)
class Wildcard:
    """What one can subscribe to: a topic in which `+` and `#` may stand for levels.

    Raises: TypeError when `value` is not a str; ValueError when it is empty, longer
    than 65535 characters, or has a misplaced `+` or `#`.
    """

    value: str

    def __str__(self) -> str:
        return self.value

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            raise TypeError(f"Wildcard must be of type str, not {type(self.value).__name__}")
        if (
            not 0 < len(self.value) <= MAX_TOPIC_LENGTH
            or "#/" in self.value
            or any(
                len(level) > 1 and ("+" in level or "#" in level) for level in self.value.split("/")
            )
        ):
            raise ValueError(f"Invalid wildcard: {self.value}")


@dataclasses.dataclass(frozen=True)
class Topic(Wildcard):
    """What a message is published to: a wildcard without `+` and `#`.

    Raises: TypeError when `value` is not a str; ValueError when it is empty, longer
    than 65535 characters, or holds `+` or `#`.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            raise TypeError(f"Topic must be of type str, not {type(self.value).__name__}")
        if not 0 < len(self.value) <= MAX_TOPIC_LENGTH or "+" in self.value or "#" in self.value:
            raise ValueError(f"Invalid topic: {self.value}")

    def matches(self, wildcard: WildcardLike) -> bool:
        """Say whether a subscription to `wildcard` gets this topic.

        Of a shared subscription, `$share/<group>/<wildcard>`, only the wildcard counts.
        """
        if not isinstance(wildcard, Wildcard):
            wildcard = Wildcard(wildcard)
        levels = self.value.split("/")
        pattern = wildcard.value.split("/")
        if pattern[0] == "$share":
            pattern = pattern[2:]
        for index, level in enumerate(pattern):
            if level == "#":
                return True
            if index == len(levels) or level not in ("+", levels[index]):
                return False
        return len(pattern) == len(levels)


WildcardLike: TypeAlias = str | Wildcard
TopicLike: TypeAlias = str | Topic
