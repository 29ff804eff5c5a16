"""From folders of runs and predictions to what a report shows.

Whatever is missing or broken in a folder is told on the page; only a folder that is neither a run nor holds predictions
is refused.
"""

from virft.run_report.answers import read_reported_answers
from virft.run_report.folders import report_folders
from virft.run_report.runs import read_run
from virft.run_report.systems import read_systems

__all__ = ["read_reported_answers", "read_run", "read_systems", "report_folders"]
