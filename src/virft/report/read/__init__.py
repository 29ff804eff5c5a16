"""Read run folders and prediction folders into the nouns of ``report.render.reported``.

A missing or corrupt file becomes a note on the page. Only a folder that is neither a run nor holds predictions is
refused.
"""

from virft.report.read.folders import report_folders
from virft.report.read.predictions import read_reported_predictions
from virft.report.read.runs import read_run
from virft.report.read.systems import read_systems

__all__ = ["read_reported_predictions", "read_run", "read_systems", "report_folders"]
