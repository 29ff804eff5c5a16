"""The built-in world: synthetic images of scenes, with questions and their ground truth."""

SCENE_TASKS = ("detection", "classification", "grounding", "multiclass_detection")
"""Tasks that scenes have questions of."""
