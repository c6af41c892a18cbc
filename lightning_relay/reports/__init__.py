"""Files, look-up by name and drawing, for all kinds of reports."""
