"""HTML reports: ``read`` collects what run folders hold, ``render`` makes pages of it."""

REPORT = "report.html"
"""File name of the report of a run or a comparison."""
