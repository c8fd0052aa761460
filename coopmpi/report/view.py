"""The live view: a bar and two lines beneath it, on a terminal of any width."""

import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

from coopmpi.report.progress import Progress

LINES = 2  # beneath the bar
BETWEEN = "  "
SHORTEST = 5  # columns of a bar


def frame(progress: Progress, width: int, quiet: str = "") -> list[str]:
    """The lines that say how far a run is, none longer than `width`: what does not fit is left out, the least important first.

    quiet: since when nothing was heard of it, if that is worth a word.
    """
    said = [*([(0, quiet)] if quiet else []), *progress.said()]
    while len(lines := _wrapped([text for _, text in said], width)) > LINES:
        said.remove(max(said, key=lambda item: item[0]))
    return [_bar(progress, width), *(line[:width] for line in lines)]


def _bar(progress, width):
    """Steps, a bar and the time left; without a known end the steps alone."""
    begin, end = f"step {progress.steps}", progress.end()
    if progress.total is None:
        return begin[:width]
    share = min(1.0, progress.done / progress.total)
    end = f"{share:.0%}{BETWEEN}{end}" if end else f"{share:.0%}"
    room = width - len(begin) - len(end) - 2 * len(BETWEEN)
    bar = "━" * int(share * room) + "─" * (room - int(share * room))
    return BETWEEN.join([begin, *([bar] if room >= SHORTEST else []), end])[:width]


def _wrapped(texts, width):
    """The texts one after the other on as few lines as they fit on."""
    lines = []
    for text in texts:
        if lines and len(lines[-1]) + len(BETWEEN) + len(text) <= width:
            lines[-1] += BETWEEN + text
        else:
            lines.append(text)
    return lines


class Terminal(Console):
    """Its cursor is never hidden, so that nothing has to give it back when a process is killed."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Display:
    """The view where it stays in its place, with all that is printed meanwhile above it; from the first `show` to `close`."""

    def __init__(self):
        self._live = None

    def show(self, progress: Progress, quiet: str = ""):
        """Draw it anew, as `frame` has it. The width is that which the terminal has now."""
        if self._live is None:
            # without a thread that draws: it would take its time from the training
            self._live = Live(console=Terminal(force_terminal=True, highlight=False), auto_refresh=False,
                              redirect_stderr=sys.stderr.isatty())
            self._live.start()
        lines = frame(progress, self._live.console.width, quiet)
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def close(self):
        """Leave the last view where it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None
