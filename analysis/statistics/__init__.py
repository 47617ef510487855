"""Statistics: intervals and tests on arrays."""
