"""Everything that makes, measures or opens a model artifact."""
