"""Moved to ``virft.integrations.trl``; this path stays, as configs of other trainers name it."""

from importlib import import_module

VisualReward = import_module("virft.integrations.trl").VisualReward
