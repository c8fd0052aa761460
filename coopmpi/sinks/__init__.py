"""Where results go while a run goes on, beside its HDF5 file. A sink of one's own derives from Sink."""

from coopmpi.sinks.sink import About, Sink, StepRows

__all__ = ["About", "Sink", "StepRows"]
