"""Spaces: from a YAML file to a checked space, with the place of each error."""
