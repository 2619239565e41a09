"""Pictures of runs. Reads run folders and trajectories; no learner imports it."""
