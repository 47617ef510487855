"""Search: what to try next, and the budget for it."""
