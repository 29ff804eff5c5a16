"""Base, supervised and reinforced model on one data set: trained by the same budget, asked the same, side by side."""
