"""How the method is run: schedules, batches, the optimizer's steps, evaluation, checkpoints, the folder of a run."""
