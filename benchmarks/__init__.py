"""How fast is the study, and against what? Each module is a command: ``python -m benchmarks.NAME --help``."""
