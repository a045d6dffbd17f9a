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
        ("RUO_TRUST_MODEL", "On", True),
        ("WEB_CONCURRENCY", "3", 3),
        ("LOG_LEVEL", "WARNING", "warning"),
        ("RUO_TOKEN", "secret", "secret"),
        ("RUO_TOKEN", " secret\n", "secret"),  # as in a file, which would let nobody in
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


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        *(("BODY_TIMEOUT", text, "BODY_TIMEOUT=.*the default is 60") for text in ("many", "-1", "nan", "1.5x", "inf")),
        ("MAX_WAITING", "1.5", "MAX_WAITING='1.5' must be a whole number"),
        ("WORKER_CORES", "all", "WORKER_CORES='all' must be a whole number"),
        ("MODEL_PRECISION", "fp16", "MODEL_PRECISION='fp16' is not known; write f32 or bf16"),
        ("RUO_TRUST_MODEL", "maybe", "RUO_TRUST_MODEL='maybe' is not known; write 1, true, .* or off"),
        ("KERAS_BACKEND", "jax", "KERAS_BACKEND='jax' is not known; write tensorflow or openvino"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL='loud' is not known"),
        ("LOG_FORMAT", "yaml", "LOG_FORMAT='yaml' is not known; write text or json"),
        *(("MODEL_NAME", f"a{sign}b", "MODEL_NAME='a.b' cannot be part of an address") for sign in "/:"),
        ("MODEL_NAME", "stats", "MODEL_NAME='stats' cannot be part of an address"),
        ("PORT", "65536", "PORT='65536' must be a whole number from 0 to 65535"),
        ("MODEL_MODULES", "acme.layers", "RUO_TRUST_MODEL=1"),
        *(("RUO_TOKEN", text, "RUO_TOKEN is blank or has line breaks") for text in (" \n", "a\nb")),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(monkeypatch, name, value, says):
    """The error has the variable's name and the cure: no word for another, no name that no address has, no token that nobody can send."""
    monkeypatch.setenv(name, value)
    with pytest.raises(RuoError, match=says):
        Settings.read()
