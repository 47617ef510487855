"""The results of a study, the questions about them, and the report that answers them."""
