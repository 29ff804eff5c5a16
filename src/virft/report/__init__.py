"""Reports of runs and predictions as HTML pages."""

REPORT = "report.html"
"""Default file name of a report."""
