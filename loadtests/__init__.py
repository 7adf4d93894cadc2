"""Load generation and measurement from outside: benchmarks, peers to compare with, simulation."""
