"""Questions: one module each, from results to an answer."""
