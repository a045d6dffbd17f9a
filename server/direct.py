"""Requests for a prediction on the V2 wire, past Flask: its contexts and objects would be a quarter of the time of a
hundred rows.

Only what is exactly such a request, for the model that is served, goes this way; all else is Flask's, where the same
routes stand and give the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Direct"]

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
Prediction = Callable[[dict[str, Any], Any, str | None], Iterable[bytes]]


class Direct:
    """A WSGI application around another: `answer` is one for predictions, given the version that a request names, too."""

    def __init__(self, app: Application, model: str, answer: Prediction) -> None:
        self._app = app
        self._current = f"/v2/models/{model}/infer"
        self._versions = f"/v2/models/{model}/versions/"
        self._answer = answer

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request (WSGI, PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        version = None
        if path != self._current:
            version, _, verb = path.removeprefix(self._versions).partition("/")
            if not path.startswith(self._versions) or verb != "infer" or not (version.isascii() and version.isalnum()):
                return self._app(environ, start_response)
        if environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start_response)
        return self._answer(environ, start_response, version)
