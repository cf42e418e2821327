"""What runs inside a notebook: its parameters, its results, its figures, its verdicts."""
