"""The commands under one name: ``study run``, ``study doctor`` and ``study sync``, or python -m study COMMAND."""

from __future__ import annotations

import importlib
import sys

# Where each command's ``main`` is; that of study.run is two processes (study/run.py).
COMMANDS = {"run": "study.run", "doctor": "study.doctor", "sync": "study.sync"}


def main() -> int:
    """Run the command that is named first; returns its exit code, or 2 where there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        listed = ", ".join(f"study {command}" for command in COMMANDS)
        print(f"usage: study COMMAND ...; the commands are {listed}, each with --help", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    del sys.argv[1]
    module = importlib.import_module(COMMANDS[name])
    run = module.run_command if name == "run" else module.main
    code: int = run()
    return code


if __name__ == "__main__":
    sys.exit(main())
