"""The trainings behind bench/series.py: one module per series, and the networks and data that they share."""
