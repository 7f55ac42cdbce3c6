"""The trainings that the study lacks, best first (`table`), and doing them (`run`), for `lth agenda`."""
