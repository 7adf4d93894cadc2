"""Small networks that learn to answer as the original does: one file a kind of input."""
