"""What a GPU is worth here: the operators' correctness and speed on hardware, in stages that fit a few minutes."""
