"""Real Keras models."""

from tests.models import keras, models

__all__ = ["keras", "models"]  # fixtures
