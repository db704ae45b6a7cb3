"""What the tests of the HTTP side share."""

from tests.mqtt.conftest import certificates

__all__ = ["certificates"]
