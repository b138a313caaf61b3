"""Cluster sizes compared: a factor table measured row by row, what the rows say, and what they foretell."""
