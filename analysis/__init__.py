"""What does a study show? Results, statistics, one module per question, and the page that puts them together."""
