"""The only Ray code, and the command line that composes everything."""
