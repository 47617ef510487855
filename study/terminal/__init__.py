"""The terminal: what a person sees of a study."""
