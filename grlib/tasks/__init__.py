"""One folder per task; `trace_task`, of which most derive; `external`, rows of data sets of others."""
