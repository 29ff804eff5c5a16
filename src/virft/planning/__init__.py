"""What a run will need of a device's memory, from its config and the model's configuration alone."""
