"""The tree itself: frozen, typed, and silent about its secrets."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.settings import HttpSettings, MqttSettings, Settings, masked_url


def test_the_defaults_are_what_the_documents_say() -> None:
    settings = Settings()
    assert settings.mqtt.topics == ("trackers/#",)
    assert settings.mqtt.qos == 0
    assert settings.http.bind == ("127.0.0.1:8000",)
    assert settings.stream.buffer_messages == 100
    assert settings.stream.buffer_bytes == 1024 * 1024
    assert settings.api.cors_origins == ()
    assert settings.log.format == "text"


def test_nothing_can_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().mqtt.qos = 1  # type: ignore[misc]  # that is what is tested


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0, -1])
def test_a_duration_is_finite_and_above_zero(seconds: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"drain_s": seconds}, type(Settings().stream))


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("mqtt://broker:1883", "mqtt://broker:1883"),
        ("mqtt://user@broker", "mqtt://user@broker"),
        ("mqtt://user:pw@broker:1883", "mqtt://user:***@broker:1883"),
        ("mqtt://:pw@broker", "mqtt://:***@broker"),
        ("wss://user:pw@broker/mqtt", "wss://user:***@broker/mqtt"),
        ("mqtt://[::1]:1883", "mqtt://[::1]:1883"),
        ("mqtt://user:p@s/s#w?:rd@broker", "mqtt://user:***@broker"),
        ("mqtt://user:a://b@broker", "mqtt://user:***@broker"),
        ("user:pw@broker", "user:***@broker"),
        ("mqtt:/user:pw@broker", "mqtt:***@broker"),
        ("mqtt://user:pw", "mqtt://user:***"),
        ("mqtt://broker?password=pw", "mqtt://broker?***"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, masked: str) -> None:
    assert masked_url(url) == masked


@given(
    password=st.text(min_size=8).filter(lambda text: "mqtt" not in text),
    form=st.sampled_from(
        ["mqtt://user:{}@broker:1883", "user:{}@broker", "mqtt://:{}@[::1]", "mqtt:user:{}@b"]
    ),
)
def test_no_password_is_seen_through_the_mask(password: str, form: str) -> None:
    assert password not in masked_url(form.format(password))


@given(secret=st.text(st.characters(categories=["L", "N"]), min_size=12))
def test_no_secret_is_in_a_repr(secret: str) -> None:
    settings = Settings(
        mqtt=MqttSettings(url=f"mqtt://user:{secret}@broker", password=secret),
        http=HttpSettings(keyfile_password=secret),
    )
    assert secret not in repr(settings)
    assert secret not in f"{settings.mqtt} {settings.http!r}"


def test_a_repr_shows_the_rest() -> None:
    shown = repr(MqttSettings(username="gateway", password="hunter2"))
    assert shown.startswith("MqttSettings(url='mqtt://127.0.0.1:1883', topics=('trackers/#',), ")
    assert "username='gateway', password='***', password_file=None, " in shown
