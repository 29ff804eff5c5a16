"""Moved to ``virft.integrations.verl``; this path stays, as configs of other trainers name it."""

from importlib import import_module

compute_score = import_module("virft.integrations.verl").compute_score
