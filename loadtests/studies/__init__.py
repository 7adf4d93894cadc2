"""The parts of a study: which loads and policies it crosses, what is kept of each run, how they are summed up."""
