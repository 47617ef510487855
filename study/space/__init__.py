"""Space files: from YAML to a checked space, with the place of each error."""
