"""`lth agenda`: the `parts` of the study, a `table` of the trainings they lack, and `run` to train them."""
