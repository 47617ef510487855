"""Data sets: from files and names to encoded splits."""
