"""Selection: what selection by validation has to select from, what it finds, and what it costs."""
