"""Tracking: what MLflow and Prometheus show."""
