"""From the records of a study to statistics, tables, figures and the report. Imports neither torch nor Lightning."""
