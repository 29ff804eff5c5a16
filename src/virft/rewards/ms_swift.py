"""Moved to ``virft.integrations.ms_swift``; this path stays, as configs of other trainers name it."""

from importlib import import_module

_moved = import_module("virft.integrations.ms_swift")
make_orm = _moved.make_orm
BoxSpace = _moved.BoxSpace
QwenResize = _moved.QwenResize
RewardRule = _moved.RewardRule
