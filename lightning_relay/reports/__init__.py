"""What reports have in common: their files, and how pictures of them are drawn."""
