"""Hands what happens in a run to its sinks."""

import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from coopmpi.sinks.sink import About, Sink

SERIES = ("steps", "rounds", "evaluation", "event")  # methods of a sink: what grows with the run
MODELS = ("final", "final_mean", "final_own")
MOST = 32  # calls of the result file that may wait for its thread


class Feed:
    """All sinks of a run as one, with the methods of an open Sink. Only the result file may end the run by its failure.

    A thread adds to the result file, so that a slow file system does not stop the ranks; what went wrong there is raised by
    one of the next calls.

    result: a coopmpi.record.writer.Writer; None on ranks other than 0, which have no sinks at all.
    """

    def __init__(self, result=None, others: list[Sink] = ()):
        self.result, self.others = result, list(others)
        self._step, self._wall_time = 0, 0.0
        self._thread, self._calls = ThreadPoolExecutor(1, "coopmpi-writer"), deque()

    def begin(self, about: About, step: int | None = None):
        """Open the result file and the others; step: where an interrupted run goes on."""
        self._step = step or 0
        opening, arguments = ("open", (about,)) if step is None else ("reopen", (about, step))
        if self.result is not None:
            getattr(self.result, opening)(*arguments)
        self._tell_others(opening, arguments)

    @property
    def written(self) -> int:
        """Up to which step the rows are in the result file."""
        return self.result.written

    def settle(self):
        """Return when everything is in the result file."""
        self._wait_for(0)

    def cut(self, about: About, step: int):
        """Go on from an earlier step: what was told of later ones is void."""
        self.drop_after(step)
        self._step = step
        self._tell_others("reopen", (about, step))

    def drop_after(self, step: int):
        """The result file ends with that step: what was told of later ones is void."""
        self.settle()
        if self.result is not None:
            self.result.cut(step)

    def close(self, status: str):
        """Close all, the result file last: it tells whose failure there was."""
        self._tell_others("close", (status,))
        self.others = []
        if self.result is not None:
            try:
                self.settle()
            finally:
                self._thread.shutdown()
                self.result.close(status)

    def __getattr__(self, method):
        if method not in (*SERIES, *MODELS):
            raise AttributeError(method)
        return lambda *arguments: self._hand_on(method, arguments)

    def _hand_on(self, method, arguments):
        if method == "evaluation":
            self._step, self._wall_time = arguments[:2]
        if self.result is not None:
            call = getattr(self.result, method)
            if method in SERIES:
                self._wait_for(MOST)
                self._calls.append(self._thread.submit(call, *arguments))
            else:
                self.settle()
                call(*arguments)
        self._tell_others(method, arguments)

    def _wait_for(self, left):
        """Raise what a call has met that is done; wait until no more than so many are left."""
        try:
            while self._calls and (len(self._calls) > left or self._calls[0].done()):
                self._calls.popleft().result()
        except BaseException:
            self._calls.clear()  # the file is broken: the others fail alike
            raise

    def _tell_others(self, method, arguments):
        for sink in list(self.others):
            try:
                getattr(sink, method)(*arguments)
            except (Exception, SystemExit) as error:  # of whatever kind, a log is not worth a training
                self.others.remove(sink)
                self._report(f"sink {type(sink).__name__} failed in {method}() and is left out from here on: {error!r:.200}")

    def _report(self, text):
        print(f"coopmpi: {text}", file=sys.stderr, flush=True)
        self.event(self._step, self._wall_time, "sink", text)
