"""Examples: published models of other libraries as teachers."""
