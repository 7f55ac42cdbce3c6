"""What the experiments cost in trainings, iterations, hours and energy; `notebooks/costs.ipynb` shows the tables."""
