"""Measures of a predicted region against the true one; each in a file of its own."""
