"""Benchmarks of the study, compared with its peers.

Four modules are commands, ``python -m benchmarks.NAME --help``: throughput, study, search and accuracy.
"""
