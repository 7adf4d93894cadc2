"""Pure decisions: what is known, what is chosen. No clock, no event loop, no framework."""
