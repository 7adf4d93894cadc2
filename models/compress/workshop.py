"""Does what a search asks for, and each thing once: results are remembered under the hash of what they depend on."""

import errno
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import onnx

from models.compress.dataset import Dataset, Rows
from models.compress.errors import Inapplicable
from models.compress.original import Original
from models.compress.passes.int8_static import Int8Static
from models.compress.sensitivity import sensitivities
from models.compress.step import Recipe, Step
from models.compress.store import Entry, Store, key_of
from models.compress.tempo import Tempo, tempo_of
from models.compress.weigh import weigh
from models.compress.workbench import Progress, Workbench
from models.session import ModelLoadError, ModelRunError, onnxruntime

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors that are no pass's fault, and that the next one would meet too."""
FAILURE = "failure.txt"

Result = tuple[dict[str, Any], bytes | None]
"""Facts, and a model if one was made."""


class PassFailed(Exception):
    """A pass, or a library in it, raised what it should not have.

    Ends one recipe, not the search. It is not remembered: the cause may be the memory that was free, a library or
    our own code, which all change without the key. The next run tries again.
    """

    def __init__(self, reason: str, seconds: float, traceback: Path) -> None:
        super().__init__(reason)
        self.seconds = seconds
        """Time it took to fail."""
        self.traceback = traceback
        """A file."""


class Workshop:
    """One original, one data set, one store.

    What is asked for comes as an `Entry` whose facts hold `seconds`, the time it took when it was done first, and
    `inapplicable`, why nothing came of it, if nothing did. Every method raises `PassFailed`, and `OSError` when the
    disk is full.
    """

    def __init__(
        self, original: Original, data: Dataset, store: Store, *, seed: int, threads: int, progress: Progress
    ) -> None:
        self._original = original
        self._data = data
        self._store = store
        self._seed = seed
        self._threads = threads
        self._progress = progress
        self._known: dict[str, Any] = {}
        self._source = [original.sha256, data.digest, seed, onnxruntime().__version__, onnx.__version__]

    @cached_property
    def tempo(self) -> Tempo:
        """How fast the original answers here, and on how many rows candidates are compared. Settled once in a store."""
        key = key_of(self._source, "tempo", len(os.sched_getaffinity(0)))
        known = self._store.recall(key)
        if known is not None:
            return Tempo(**known.facts)
        tempo = tempo_of(self._original, self._data.validation)
        self._store.keep(key, asdict(tempo))
        return tempo

    @cached_property
    def identity(self) -> list[Any]:
        """What everything depends on. Raises `ModelRunError` when the original does not answer the validation rows."""
        return [*self._source, self.tempo.choosing_rows]

    @cached_property
    def _validation(self) -> Rows:
        """Shuffled when the data was split: the first are as good as any."""
        return self._data.validation.take(slice(0, self.tempo.choosing_rows))

    def make(self, recipe: Recipe, parent: bytes, allowed_s: float) -> Entry:
        """Carry out the last step of a recipe on what the steps before it made."""

        def work(bench: Workbench) -> Result:
            return {}, recipe[-1].apply(onnx.load_from_string(parent), bench).SerializeToString()

        return self._once(self._key("model", recipe), allowed_s, work)

    def weigh(self, recipe: Recipe, content: bytes) -> Entry:
        """The facts of the weight of what a recipe made."""
        return self._once(self._key("weight", recipe), inf, lambda bench: (weigh(content, bench).facts(), None))

    def choices(self, each: type[Step], recipe: Recipe, content: bytes, allowed_s: float) -> Entry:
        """The `choices`, facts of steps, of a pass on what a recipe made."""

        def work(bench: Workbench) -> Result:
            return {"choices": [step.facts() for step in each.choices(onnx.load_from_string(content), bench)]}, None

        return self._once(self._key("choices", recipe, each.name), allowed_s, work)

    def sensitivity(self, step: Int8Static) -> Entry:
        """The `layers`, facts of what each loses."""

        def work(bench: Workbench) -> Result:
            return {"layers": [layer.facts() for layer in sensitivities(step, self._original.model(), bench)]}, None

        return self._once(self._key("sensitivity", (step,)), inf, work)

    def _once(self, key: str, allowed_s: float, work: Callable[[Workbench], Result]) -> Entry:
        known = self._store.recall(key)
        if known is not None:
            return known
        began_s = time.monotonic()
        content = None
        try:
            facts, content = work(self._bench(key, allowed_s))
        except Inapplicable as reason:
            facts = {"inapplicable": str(reason)}
        except (ModelLoadError, ModelRunError) as error:
            facts = {"inapplicable": f"what it makes cannot be used: {error}"}
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            raise self._failure(key, error, time.monotonic() - began_s) from error
        facts["seconds"] = time.monotonic() - began_s
        self._store.keep(key, facts, content)
        return Entry(facts, content)

    def _failure(self, key: str, error: Exception, seconds: float) -> PassFailed:
        place = self._store.folder(key) / FAILURE
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        return PassFailed(f"failed: {type(error).__name__}: {first[:300]}", seconds, place)

    def _key(self, what: str, recipe: Recipe, *more: str) -> str:
        return key_of(self.identity, what, [step.facts() for step in recipe], *more)

    def _bench(self, key: str, allowed_s: float) -> Workbench:
        return Workbench(
            original=self._original,
            train=self._data.train,
            validation=self._validation,
            folder=self._store.folder(key),
            seed=self._seed,
            threads=self._threads,
            deadline_s=time.monotonic() + allowed_s,
            progress=self._progress,
            known=self._known,
        )
