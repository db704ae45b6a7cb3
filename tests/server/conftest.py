"""What the tests of the server share."""

from tests.mqtt.conftest import certificates

__all__ = ["certificates"]
