"""The model of one worker, from being loaded in the background to being ready."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from ruo.errors import RuoError
from server.board import Board
from server.model import Model, load_model

__all__ = ["NotReadyError", "Serving"]

log = logging.getLogger("gunicorn.error")


class NotReadyError(RuoError):
    """The model is being loaded, or cannot be: the message says which."""


class Serving:
    """Holds the model of this process. `start` loads it in a thread; `model` gives it once it is warm."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.version = "1"
        self._model: Model | None = None
        self._error: str | None = None
        self._board: Board | None = None
        self._line = 0
        self._loaded = threading.Event()
        self._starting = threading.Lock()
        self._started = False

    def start(self, board: Board | None = None, line: int = 0) -> None:
        """Begin to load, once; with a board, the other workers are told when this one is ready."""
        with self._starting:
            if self._started:
                return
            self._started = True
        self._board, self._line = board, line
        threading.Thread(target=self._load, name="load-model", daemon=True).start()

    def model(self, wait_s: float = 0.0) -> Model:
        """The model, after at most `wait_s` seconds of waiting; raises NotReadyError."""
        self.start()
        self._loaded.wait(wait_s)
        if self._model is None:
            raise NotReadyError(self.why_not_ready())
        return self._model

    def why_not_ready(self) -> str:
        """One sentence: the model is being loaded, or cannot be and why."""
        return self._error or f"The model at {self.path} is being loaded; try again in a moment."

    def ready_workers(self) -> int:
        """How many workers of this server are ready; 1 or 0 where this one stands alone."""
        return self._board.ready() if self._board else int(self._model is not None)

    def _load(self) -> None:
        began = time.perf_counter()
        try:
            self._model = load_model(self.path)
        except RuoError as error:
            self._error = str(error)
            log.error("%s", error)
        else:
            log.info("Model %s from %s ready after %.1f s", self.name, self.path, time.perf_counter() - began)
            if self._board:
                self._board.set_ready(self._line, True)
        self._loaded.set()
