"""Which encoder, which schedule, which batch size, when to stop: the runs that can answer it."""

__version__ = "0.2.0"
