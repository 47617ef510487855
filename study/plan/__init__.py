"""The plan: cells, the trajectories that train them, and what became of them."""
