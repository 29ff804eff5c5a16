"""From folders of runs and predictions to what a report shows.

Whatever is missing or broken in a folder is told on the page; only a folder that is neither a run nor holds predictions
is refused.
"""

from virft.report.read.answers import read_reported_answers
from virft.report.read.folders import report_folders
from virft.report.read.runs import read_run
from virft.report.read.systems import read_systems

__all__ = ["read_reported_answers", "read_run", "read_systems", "report_folders"]
