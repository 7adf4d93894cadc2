"""Rules of published systems behind our `Policy` port, to be compared with ours, and the register of all by name."""
