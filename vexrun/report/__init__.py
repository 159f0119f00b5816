"""Renderings of a run's results: one format a file, each a pure function of `RunResults`."""

from vexrun.report.formats import FORMATS, Format, write_reports

__all__ = ["FORMATS", "Format", "write_reports"]
