"""Default and limit of vLLM's memory. Apart from the schema, so that the command line starts without loading it."""

DEFAULT_FRAC = 0.3
"""Fraction of the accelerator's memory for vLLM. Source: TRL."""
MAX_FRAC = 0.95
"""Largest such fraction."""
