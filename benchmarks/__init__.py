"""Benchmarks of the study, compared with its peers.

Five modules are commands, ``python -m benchmarks.NAME --help``: throughput, study, search, accuracy and truths.
"""
