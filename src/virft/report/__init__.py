"""HTML reports: ``read`` collects what run folders hold, ``render`` makes pages of it."""

REPORT = "report.html"
"""File name of the report of a run or a comparison."""
SUSPECTS_FOLDER = "suspects"
"""Folder of suspect labels in a run."""
