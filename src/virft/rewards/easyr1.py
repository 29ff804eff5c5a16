"""Moved to ``virft.integrations.easyr1``; this path stays, as configs of other trainers name it."""

from importlib import import_module

_moved = import_module("virft.integrations.easyr1")
REWARD_TYPE = _moved.REWARD_TYPE
REWARD_NAME = _moved.REWARD_NAME
compute_score = _moved.compute_score
