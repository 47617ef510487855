"""What has been published on a study's conditions?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedResult:
    """A published result, and the settings that it belongs to."""

    match: Mapping[str, Any]
    test_loss: float | None
    test_accuracy: float | None
    source: str

    def matches(self, settings: Mapping[str, Any]) -> bool:
        """Whether these settings are the ones that the result was published for."""
        return all(_same(settings.get(key), value) for key, value in self.match.items())


def published(space: str) -> tuple[PublishedResult, ...]:
    """The references in the text of a space file."""
    document = yaml.safe_load(space)
    found = document.get("references") or [] if isinstance(document, dict) else []
    return tuple(
        PublishedResult(
            match=item["match"],
            test_loss=item.get("test_loss"),
            test_accuracy=item.get("test_accuracy"),
            source=str(item["source"]),
        )
        for item in found
    )


def _same(held: object, wanted: object) -> bool:
    """Equal, where a YAML 1.1 reader takes 5e-05 for text and leaves out a stopping rule's defaults."""
    if isinstance(held, Mapping) and isinstance(wanted, Mapping):
        return all(_same(held.get(key), value) for key, value in wanted.items())
    if isinstance(held, int | float) and not isinstance(held, bool) and isinstance(wanted, str):
        try:
            return float(wanted) == held
        except ValueError:
            return False
    return held == wanted or (held is None and wanted == "none")
