"""The versions of the model in one worker: the current one, and for a while those that it replaced."""

import ctypes
import gc
import logging
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from werkzeug.exceptions import ServiceUnavailable

from ruo.errors import ModelError
from ruo.model.loading import load_model
from ruo.model.signature import Model
from ruo.model.store import version_folders
from ruo.wire import WireError
from server.metrics import Metrics
from server.repository import MOST_REPLACED, StoredModel, fetch, newest, version_in
from server.scheduler import Scheduler
from server.settings import Settings
from server.slots import WorkerSlots

_DISK_S = 1.0  # for a disk to answer a request's question

log = logging.getLogger("gunicorn.error")


class Served(NamedTuple):
    """A version that is ready; `version` is its number in a store, or derived from its fingerprint; `stamp` its files'."""

    model: Model
    version: str
    sha256: str
    stamp: tuple[object, ...]


def number_of(sha256: str) -> str:
    """The version of a single file: twelve digits, since Triton's tools and TensorFlow's clients expect a number."""
    return str(10**11 + int(sha256, 16) % (9 * 10**11))


class Serving:
    """What one worker serves: a thread loads the first version and every new one; a running request keeps its own."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.model_name
        self.settings, self.metrics, self.scheduler = settings, Metrics(), Scheduler()
        self._current: Served | None = None
        self._replaced: dict[str, tuple[Served, float]] = {}  # by version, oldest first, with the end of its grace time
        self._has_garbage = False  # a replaced model is gone, with the last request that used it
        self._error: str | None = None
        self.behind: str | None = None  # why an older version than the newest is served
        self._stamp: tuple[object, ...] = ()  # of the model that was loaded last, or could not be
        self._after = 0  # its version in a store; no version after it is left out
        self.slots, self._slot = WorkerSlots(), 0
        self._tried, self._look = threading.Event(), threading.Event()
        self._not_started = threading.Lock()
        self._looks = ThreadPoolExecutor(1, thread_name_prefix="look")  # one thread that may wait for the disk

    def start(self, slots: WorkerSlots | None = None, slot: int = 0) -> None:
        """Start to load, once; through the slots the other workers see when this one is ready."""
        if self._not_started.acquire(blocking=False):
            self.slots, self._slot = slots or self.slots, slot
            threading.Thread(target=self._watch, name="models", daemon=True).start()

    def get(self, version: str | None = None, wait_s: float = 0.0) -> Served:
        """A version, by default the current one; waits up to `wait_s` seconds for the first one.

        Raises ServiceUnavailable (503), which says why, while it is not loaded, and WireError (404) if there is no such version.
        """
        self.start()
        self._tried.wait(wait_s)
        current, replaced = self._current, self._replaced
        if current is None:
            raise ServiceUnavailable(self.why_not_ready())
        if version in (None, current.version):
            return current
        if version in replaced:
            return replaced[version][0]
        if self.settings.model_poll_seconds and self._has_newer():
            self._look.set()
            raise ServiceUnavailable(f'A new version of the model is being loaded; if it is "{version}", try again.')
        known = ", ".join(self.versions())
        raise WireError(f'There is no version "{version}" of model "{self.name}" here; there is {known}.', 404)

    def _has_newer(self) -> bool:
        """Whether a version waits to be loaded; so it is taken to be where the disk, as over NFS, gives no answer at once."""
        look = self._looks.submit(newest, self.settings.model_path, self._after)
        try:
            return self._is_new(look.result(_DISK_S))
        except TimeoutError:
            look.cancel()
            return True
        except (ModelError, OSError):
            return False

    def versions(self) -> list[str]:
        """The versions that `get` returns; the current one is the last."""
        return [*self._replaced, *([self._current.version] if self._current else [])]

    def why_not_ready(self) -> str:
        """One sentence: the model is being loaded, or why it cannot be."""
        return self._error or f"The model at {self.settings.model_path} is being loaded; try again in a moment."

    def ready_workers(self) -> int:
        """How many workers of this server are ready; without slots, this one is the only worker."""
        self.start()
        return self.slots.ready()

    def _watch(self) -> None:
        seen = self._check(None)
        self._tried.set()
        while self.settings.model_poll_seconds:
            self._look.wait(self.settings.model_poll_seconds)
            self._look.clear()
            self._forget_replaced()
            if self._has_garbage:
                self._has_garbage = False
                _free_memory()
            seen = self._check(seen)

    def _check(self, seen: StoredModel | None) -> StoredModel | None:
        """Load a new model on disk; returns the stored model, for comparison the next time."""
        try:
            stored = newest(self.settings.model_path, self._after)
            if self._current and stored.stamp == self._current.stamp:
                self._set_behind(None)
            # a model without a manifest may be incomplete, so it is loaded once it has stopped changing
            if self._is_new(stored) and (stored.sha256 or not self._current or stored == seen):
                try:
                    self._load(stored)
                finally:  # not before, since meanwhile `get` takes it for one that waits
                    self._after, self._stamp = int(stored.version or 0), stored.stamp
                self._look.set()  # the next version may be there already
        except (ModelError, OSError) as error:
            path, reason = self.settings.model_path, getattr(error, "strerror", None) or error
            sentence = str(error) if isinstance(error, ModelError) else f"The model at {path} cannot be read: {reason}."
            if sentence != self._error:
                log.error("%s%s", sentence, " The previous one stays in service." if self._current else "")
                self.metrics.load_failures.inc()
            if isinstance(error, OSError):
                self._stamp = ()  # the same files may be read the next time
            if self._current is None:
                self._fall_back()
            self._error = sentence  # which is final for whoever waits, so not before another version was tried
            self._set_behind(sentence if self._current else None)
            return None
        except Exception:
            log.exception("Looking for a new model failed; trying again")
            return None
        return stored

    def _fall_back(self) -> None:
        """At the start, load the newest version that can be; the one that failed is tried again when it changes."""
        path = self.settings.model_path
        for folder in reversed(version_folders(path) if path.is_dir() else []):
            if self._current is None and int(folder.name) != self._after:
                with suppress(ModelError, OSError):
                    self._load(version_in(folder))
        if self._current:
            log.error("Version %s is served, since the newest cannot be loaded.", self._current.version)

    def _set_behind(self, why: str | None) -> None:
        self.behind = why
        self.metrics.is_behind.set(why is not None)

    def _is_new(self, stored: StoredModel) -> bool:
        # without a model even after a failure, which may have been the disk's
        return self._current is None or stored.stamp != self._stamp

    def _load(self, stored: StoredModel) -> None:
        began = time.perf_counter()
        settings, old = self.settings, self._current
        with fetch(stored) as (path, sha256):
            if settings.model_sha256 and sha256 != settings.model_sha256.lower():
                raise ModelError(f"The model at {stored.path} has the fingerprint {sha256}, not that in MODEL_SHA256.")
            version = stored.version or number_of(sha256)
            if old and (old.sha256, old.version) == (sha256, version):
                model = old.model  # the same content with another name or time
            else:
                trusted, precision, run = settings.ruo_trust_model, settings.model_precision, self.scheduler.run
                modules, signature = settings.model_modules, settings.model_signature
                model = load_model(path, trusted, stored.path, precision, run, modules, signature)
                _free_memory()
        if old and old.model is not model:
            # before the new one becomes current, so that `get` finds the old one at every moment
            self._replaced = {**self._replaced, old.version: (old, time.monotonic() + settings.model_grace_seconds)}
        self._current, self._error = Served(model, version, sha256, stored.stamp), None
        self._forget_replaced()
        self._set_behind(None)
        self.metrics.models.labels(self.name, version, sha256).set(1)
        self.metrics.load_s.set(time.perf_counter() - began)
        log.info("Model %s version %s ready after %.1f s", self.name, version, time.perf_counter() - began)
        self.slots.is_ready[self._slot] = 1

    def _forget_replaced(self) -> None:
        """Those whose time is over, and one of the same number as the current one: a version withdrawn and published anew."""
        now, current = time.monotonic(), self._current and self._current.version
        kept = [(version, entry) for version, entry in self._replaced.items() if entry[1] > now and version != current]
        before, self._replaced = self._replaced, dict(kept[-MOST_REPLACED:])
        for version in before.keys() - self._replaced.keys():
            forgotten = before[version][0]
            # without a lock, as in the collector
            weakref.finalize(forgotten.model, setattr, self, "_has_garbage", True)
            self.metrics.models.labels(self.name, version, forgotten.sha256).set(0)
            log.info("Model %s version %s is no longer kept", self.name, version)


def _free_memory() -> None:
    """Return unused memory to the system: a model is full of reference cycles, and glibc keeps what is freed."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
