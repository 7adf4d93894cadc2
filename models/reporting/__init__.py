"""How reports look: the page, its numbers and its pictures, the same for a compression and for a simulation."""
