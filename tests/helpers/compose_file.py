"""Reads docker/compose.yaml as Compose does: variables filled in, anchors merged, commands as words."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from places import ROOT

DOCKER = ROOT / "docker"
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::-([^}]*))?\})")


def fill_in(value: Any, environment: Mapping[str, str]) -> Any:
    """``${NAME:-default}`` and ``$$`` in every text of a YAML value; keys are left as they are."""
    if isinstance(value, str):
        return VARIABLE.sub(lambda m: "$" if m[1] else environment.get(m[2]) or m[3] or "", value)
    if isinstance(value, list):
        return [fill_in(item, environment) for item in value]
    if isinstance(value, dict):
        return {key: fill_in(item, environment) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Service:
    """One service, with every default filled in."""

    name: str
    values: Mapping[str, Any]

    @property
    def words(self) -> list[str]:
        """What its container runs; nothing where the image says it."""
        parts = (self.values.get("entrypoint", []), self.values.get("command", []))
        return [word for part in parts for word in (shlex.split(part) if isinstance(part, str) else part)]

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.values.get("environment", {}))

    @property
    def needs(self) -> list[str]:
        """The services that have to be healthy before it starts."""
        return list(self.values.get("depends_on", {}))

    @property
    def health(self) -> list[str]:
        """The command that succeeds when it is healthy."""
        kind, *words = self.values["healthcheck"]["test"]
        assert kind == "CMD"
        return [str(word) for word in words]

    @property
    def built(self) -> bool:
        """It runs the image that docker/Dockerfile makes."""
        return "build" in self.values


def read_compose(environment: Mapping[str, str] | None = None) -> tuple[dict[str, Service], dict[str, Any]]:
    """The services by name, and the whole file, for the given variables."""
    values = fill_in(yaml.safe_load((DOCKER / "compose.yaml").read_text()), environment or {})
    return {name: Service(name, service) for name, service in values["services"].items()}, values
