"""`tracker.domain.errors`."""

from __future__ import annotations

from tracker.domain.errors import BadRequestError, Malformed, MalformedPayloadError, leaves


def test_a_malformed_payload_has_a_reason_and_a_text() -> None:
    error = MalformedPayloadError(Malformed.EMPTY, "empty payload")
    assert (error.reason, str(error)) == (Malformed.EMPTY, "empty payload")
    assert isinstance(error, ValueError)


def test_a_bad_request_says_what_it_is_told() -> None:
    assert str(BadRequestError("bad")) == "bad"


def test_the_labels_of_the_metric_stay_as_they_are() -> None:
    assert [reason.value for reason in Malformed] == [
        "empty",
        "too_large",
        "bad_utf8",
        "bad_json",
        "too_deep",
        "not_an_object",
        "no_device_id",
        "bad_device_id",
    ]


def test_leaves_are_the_errors_without_their_groups() -> None:
    a, b, c = ValueError("a"), KeyError("b"), KeyboardInterrupt()
    group = BaseExceptionGroup("", [a, ExceptionGroup("", [ExceptionGroup("", [b])]), c])
    assert leaves(group) == [a, b, c]
