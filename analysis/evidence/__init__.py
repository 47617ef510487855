"""Evidence: conditions, diagnoses, trials and comparisons of a study's results."""
