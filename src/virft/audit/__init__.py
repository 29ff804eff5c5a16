"""Reward-hacking audit: completions that ignore the image, rewarded by a run's rules, next to oracle answers."""
