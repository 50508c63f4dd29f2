"""Code self-repair: problems, episodes and the task that plugs into the self-training loop."""
