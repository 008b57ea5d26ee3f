"""Data sets of medical images and volumes; each in a file of its own."""
