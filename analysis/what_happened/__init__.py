"""What happened in a study, in five statements: failures, the best setting, its distances, early stopping and cost."""
