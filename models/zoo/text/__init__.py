"""The text family: which language a short name is in, from a character transformer down to hashed n-grams."""
