"""What of the study is not recorded, in the order in which it is worth doing, and doing it."""
