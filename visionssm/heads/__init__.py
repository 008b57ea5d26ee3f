"""Networks that turn features into answers: plain modules, which need nothing of the train extra."""
