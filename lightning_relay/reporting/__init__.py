"""From a report to loggers."""
