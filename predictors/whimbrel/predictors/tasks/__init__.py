"""What a network's numbers mean: one module for each task, behind the one seam of `task.Task`."""
