"""docker/compose.yaml read as Compose reads it: variables filled in, anchors merged, commands as words."""

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
    """Fill in ``${NAME:-default}`` and ``$$`` in every text of a YAML value; keys stay as they are."""
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
        """The command of its container; empty where it is the image's."""
        parts = (self.values.get("entrypoint", []), self.values.get("command", []))
        return [word for part in parts for word in (shlex.split(part) if isinstance(part, str) else part)]

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.values.get("environment", {}))

    @property
    def needs(self) -> list[str]:
        """The services that must be healthy before it starts."""
        return list(self.values.get("depends_on", {}))

    @property
    def health(self) -> list[str]:
        """The command of its health check."""
        kind, *words = self.values["healthcheck"]["test"]
        assert kind == "CMD"
        return [str(word) for word in words]

    @property
    def built(self) -> bool:
        """Whether it runs the image of docker/Dockerfile."""
        return "build" in self.values


def read_compose(environment: Mapping[str, str] | None = None) -> tuple[dict[str, Service], dict[str, Any]]:
    """The services by name, and the whole file, with the given variables."""
    values = fill_in(yaml.safe_load((DOCKER / "compose.yaml").read_text()), environment or {})
    return {name: Service(name, service) for name, service in values["services"].items()}, values
