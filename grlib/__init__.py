"""grlib: an open, runnable reproduction of Guided Reinforced Self-Training (NeurIPS 2025).

The rooms, from the ground up; each imports from those before it only:

- `errors`, `profiles`: one exception; every size and setting. `runs`: notebooks as a build. `sandbox`:
  programs that a model wrote, in isolation.
- `models`: tokenizer and Llama. `training`: supervised fine-tuning. `sampling`: requests in, responses out.
- `selftrain`: ReST and Guided-ReST on any task.
- `tasks`: one folder per task; `tasks.countdown` is the paper's puzzle, traces and rewriting.
- `ppo`: reinforcement learning with a line as an action.
- `results`: metrics, tables, claims, figures. `plan`: what a run will take. `__main__`: every command.
"""

__version__ = "0.1.0"
