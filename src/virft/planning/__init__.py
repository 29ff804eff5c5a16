"""Estimate of the device memory that a run needs, from its config and the model's configuration alone."""
