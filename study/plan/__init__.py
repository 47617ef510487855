"""Plans: cells, the trajectories that train them, and the results of cells."""
