"""Hands what happens in a run to its sinks."""

import sys

from coopmpi.sinks.sink import About, Sink

METHODS = ("steps", "rounds", "evaluation", "event", "final", "final_mean")


class Feed:
    """All sinks of a run as one, with the methods of an open Sink. Only the result file may end the run by its failure.

    result: a coopmpi.record.writer.Writer; None on ranks other than 0, which have no sinks at all.
    """

    def __init__(self, result=None, others: list[Sink] = ()):
        self.result, self.others = result, list(others)
        self._step, self._wall_time = 0, 0.0

    def begin(self, about: About, step: int | None = None):
        """Open the result file and the others; step: where an interrupted run goes on."""
        self._step = step or 0
        opening, arguments = ("open", (about,)) if step is None else ("reopen", (about, step))
        if self.result is not None:
            getattr(self.result, opening)(*arguments)
        self._tell_others(opening, arguments)

    def cut(self, about: About, step: int):
        """Go on from an earlier step: what was told of later ones is void."""
        self._step = step
        if self.result is not None:
            self.result.cut(step)
        self._tell_others("reopen", (about, step))

    def close(self, status: str):
        """Close all, the result file last: it tells whose failure there was."""
        self._tell_others("close", (status,))
        self.others = []
        if self.result is not None:
            self.result.close(status)

    def __getattr__(self, method):
        if method not in METHODS:
            raise AttributeError(method)
        return lambda *arguments: self._hand_on(method, arguments)

    def _hand_on(self, method, arguments):
        if method == "evaluation":
            self._step, self._wall_time = arguments[:2]
        if self.result is not None:
            getattr(self.result, method)(*arguments)
        self._tell_others(method, arguments)

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
