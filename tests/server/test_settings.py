"""The environment's settings."""

from pathlib import Path

import pytest

from ruo.errors import RuoError
from server.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MODEL_PATH", "/models/a", Path("/models/a")),
        ("MODEL_NAME", "digits", "digits"),
        ("MODEL_POLL_SECONDS", "0", 0.0),
        ("MAX_REQUEST_MB", "0.5", 0.5),
        ("MAX_WAITING", "3", 3),
        ("MAX_WAITING", "", 32),
        ("RUO_TRUST_MODEL", "1", True),
        ("RUO_TRUST_MODEL", "0", False),
        ("RUO_TOKEN", "secret", "secret"),
    ],
)
def test_the_environment_is_read(monkeypatch, name, value, expected):
    """Every variable sets the field of its name; an empty one leaves the default."""
    monkeypatch.setenv(name, value)
    assert getattr(Settings.read(), name.lower()) == expected


def test_what_is_passed_goes_before_the_environment(monkeypatch):
    """`config` overrides the environment."""
    monkeypatch.setenv("MODEL_NAME", "environment")
    assert Settings.read({"MODEL_NAME": "config"}).model_name == "config"


@pytest.mark.parametrize("value", ["many", "-1", "nan", "1.5x"])
def test_what_is_no_number_is_refused_by_name(monkeypatch, value):
    """A setting that makes no sense stops the server with the variable's name and its default."""
    monkeypatch.setenv("BODY_TIMEOUT", value)
    with pytest.raises(RuoError, match="BODY_TIMEOUT=.*the default is 60"):
        Settings.read()


def test_an_unknown_precision_is_refused(monkeypatch):
    """bfloat16 is a choice by its name; no other word is taken for float32."""
    monkeypatch.setenv("MODEL_PRECISION", "fp16")
    with pytest.raises(RuoError, match="MODEL_PRECISION='fp16' is neither f32, the default, nor bf16"):
        Settings.read()
