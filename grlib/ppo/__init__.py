"""Operation-level PPO: losses, learner, loop."""
