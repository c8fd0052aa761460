"""What a plan has expected of a run, beside what the run took."""

from collections.abc import Iterator, Mapping

CLOSE = 0.15  # relative error of a forecast that is as good as it is meant to be
NAMES = {"gradient": "gradients", "other": "compressors, sums and the optimiser", "network": "waiting for the network"}


def against_forecast(forecast: Mapping[str, float], steps: int, per_step: float, gradient: float, waiting: float) -> Iterator[str]:
    """Sentences on the [forecast] table of a run. steps: that it took; the rest: its mean seconds of a step, in all, of gradients, of waiting."""
    expected = sum(forecast[name] for name in NAMES)
    if not expected:
        return
    error = per_step / expected - 1
    yield f"{expected:.4g} s/step, measured {per_step:.4g} ({error:+.0%}); {forecast['steps']:.0f} steps to the target, done {steps}"
    if abs(error) > CLOSE:
        # the part that is off by the most seconds is the assumption that failed
        measured = {"gradient": gradient, "network": waiting, "other": max(0.0, per_step - gradient - waiting)}
        worst = max(NAMES, key=lambda name: abs(measured[name] - forecast[name]))
        yield f"what failed: {NAMES[worst]}, {forecast[worst]:.4g} s of a step expected, {measured[worst]:.4g} measured"
