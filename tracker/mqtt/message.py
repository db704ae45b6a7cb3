"""One message as it came from the broker."""

from __future__ import annotations

from paho.mqtt.properties import Properties

from tracker.mqtt.topics import Topic, TopicLike


class Message:
    """A message that was received.

    The topic is checked and wrapped when it is first asked for, not before: at
    20,000 messages a second that check would cost as much as the rest.

    Attributes: `payload` (bytes), `qos` of the delivery, `retain` (the broker handed
    over an old message), `mid` (0 at QoS 0), `properties` (None below MQTT 5),
    `received_ns` (`time.monotonic_ns()` when its bytes were read from the socket).
    """

    __slots__ = ("_topic", "mid", "payload", "properties", "qos", "received_ns", "retain")

    def __init__(
        self,
        topic: TopicLike,
        payload: bytes,
        qos: int,
        retain: bool,
        mid: int,
        properties: Properties | None,
        *,
        received_ns: int = 0,
    ) -> None:
        self._topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.mid = mid
        self.properties = properties
        self.received_ns = received_ns

    @property
    def topic(self) -> Topic:
        """The topic it was published to. Raises: ValueError when the broker sent an invalid one."""
        topic = self._topic
        if isinstance(topic, str):
            topic = self._topic = Topic(topic)
        return topic

    def __lt__(self, other: Message) -> bool:
        """Order by message id, so that a priority queue settles ties."""
        return self.mid < other.mid

    def __repr__(self) -> str:
        return (
            f"Message(topic={str(self._topic)!r}, payload={self.payload!r}, qos={self.qos}, "
            f"retain={self.retain}, mid={self.mid})"
        )
