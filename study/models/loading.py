"""Which files of a model are loaded, and one readable error for whatever the libraries raise meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import transformers
from huggingface_hub import try_to_load_from_cache

from study.settings import BUILT_IN_MODELS

# What cannot be used is reported by the caller; the library would print tables and warnings beside it.
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
if not sys.stderr.isatty():
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def hub_commit(model: str) -> str | None:
    """The commit of a hub model that this machine loaded last; None for any other model."""
    if model in BUILT_IN_MODELS or Path(model).is_absolute():
        return None
    config = try_to_load_from_cache(model, "config.json")
    return Path(config).parent.name if isinstance(config, str) else None


@contextlib.contextmanager
def loading_errors(model: str) -> Iterator[None]:
    """Raise ValueError, with a reason, for any error: the libraries read a model's files without checking them."""
    try:
        yield
    except BaseException as error:
        # A panic of Rust's is not an Exception, and its class cannot be imported.
        if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
        if isinstance(error, AttributeError | LookupError | TypeError):
            reason = f"{type(error).__name__}: {reason}"  # which says little without its name
        hint = "a folder written by save_pretrained can be given instead"
        raise ValueError(f"the model {model} could not be loaded ({reason}); {hint}") from error
