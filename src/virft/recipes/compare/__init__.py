"""Base, supervised and reinforced model on one dataset: equal budgets, equal evaluation, side by side."""
