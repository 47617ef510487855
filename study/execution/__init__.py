"""Execution: the cluster, Ray Tune, and one run from plan to results."""
