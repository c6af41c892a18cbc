"""From recorded states and labels to a report of what units relay."""
