"""The built-in world: pictures of scenes with questions whose answers are known."""

SCENE_TASKS = ("detection", "classification", "grounding")
"""Tasks that scenes have questions of."""
