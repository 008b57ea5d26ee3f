"""Detection of objects in point clouds: networks, which need nothing of the train extra."""
