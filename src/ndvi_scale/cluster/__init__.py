"""Where a run computes: threads, processes, a scheduler that is there, jobs of an HPC system. By a name."""
