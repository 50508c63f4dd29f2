"""Operation-level PPO: losses, rollouts, the loop."""
