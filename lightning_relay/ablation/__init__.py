"""From a model and the units to knock out to a report of what that costs."""
