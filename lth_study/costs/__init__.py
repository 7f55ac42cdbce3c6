"""What the experiments cost: trainings and iterations, hours beside the least that they could be, and energy."""
