"""Advantages, returns and losses of operation-level PPO, as pure functions on tensors.

`action_start` splits a response into actions: 1.0 at the first token of each action, 0.0 elsewhere. With one
start per line this is the paper's operation-level MDP, with a start at every token it is ordinary PPO. All
tensors are float, have the shape (batch, tokens), and begin with the first token of the response; padding,
on the right, starts no action, earns no reward and has equal log probabilities. No function here knows what a
line is.
"""

from __future__ import annotations

import torch

from grlib.errors import GrlibError

LARGEST_STEP = 20.0  # bounds the difference of a token's log probabilities, as in the authors' release
WHITENING_EPSILON = 1e-8


def operation_advantages(
    reward: torch.Tensor, value: torch.Tensor, action_start: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantages and returns over actions: two (batch, tokens) tensors, zero off the starts.

    The reward of an action is the sum over its tokens; the value at its first token is that of the state
    before it, and after the last action the value is 0. The advantage is whitened over all action starts of
    the batch, the return (advantage + value) is not. Raises GrlibError on shapes that differ, a response
    whose first token is no start, and numbers that are not finite.
    """
    _check(action_start, reward=reward, value=value)
    rewards = by_action(reward, action_start)
    values = by_action(value * action_start, action_start)
    advantages, following, following_value = torch.zeros_like(rewards), 0.0, 0.0
    for number in reversed(range(rewards.shape[1])):  # an action that a row does not have adds zero
        delta = rewards[:, number] + gamma * following_value - values[:, number]
        following = delta + gamma * lam * following
        following_value = values[:, number]
        advantages[:, number] = following
    at_start = to_tokens(advantages, action_start)
    return whitened(at_start, action_start), at_start + value * action_start


def group_advantages(reward: torch.Tensor, action_start: torch.Tensor, group: int) -> torch.Tensor:
    """Advantages without a critic (GRPO): (batch, tokens), the same at every start of a response, else zero.

    Rows come in groups of `group` samples of one problem; the advantage of a response is its total reward
    minus the group's mean, divided by the group's standard deviation (zero where all are equal). Raises
    GrlibError on a group of one, which has nothing to compare with, and on a batch that is not whole groups.
    """
    _check(action_start, reward=reward)
    if group < 2 or len(reward) % group:
        raise GrlibError(
            f"group={group} for {len(reward)} responses: must be 2 or more and divide them; "
            "sample each problem several times"
        )
    totals = reward.sum(1).view(-1, group)
    centred = totals - totals.mean(1, keepdim=True)
    scaled = centred / (totals.var(1, keepdim=True) + WHITENING_EPSILON).sqrt()
    return scaled.view(-1, 1) * action_start


def operation_policy_loss(
    old_logprob: torch.Tensor,
    new_logprob: torch.Tensor,
    advantage: torch.Tensor,
    action_start: torch.Tensor,
    clip: float,
    dual_clip: float,
) -> torch.Tensor:
    """The clipped surrogate, a scalar: mean over all actions of the batch.

    The log ratio of an action is the sum over its tokens (`action_log_ratio`). A negative advantage costs at
    most `dual_clip` times its size, however large the ratio is. Raises GrlibError as `operation_advantages`.
    """
    _check(action_start, old_logprob=old_logprob, new_logprob=new_logprob, advantage=advantage)
    ratio = action_log_ratio(old_logprob, new_logprob, action_start).exp()
    gain = by_action(advantage * action_start, action_start)
    loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip, 1 + clip))
    loss = torch.where(gain < 0, torch.minimum(loss, -gain * dual_clip), loss)
    return loss.sum() / action_start.sum()  # an action that a row does not have has gain 0, so loss 0


def clipped_share(
    old_logprob: torch.Tensor,
    new_logprob: torch.Tensor,
    advantage: torch.Tensor,
    action_start: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Share of the actions whose loss the clip changes, so that they have no gradient: a scalar to watch."""
    ratio = action_log_ratio(old_logprob, new_logprob, action_start).exp()
    gain = by_action(advantage * action_start, action_start)
    return (gain * ratio > gain * ratio.clamp(1 - clip, 1 + clip)).sum() / action_start.sum()


def value_loss(
    value: torch.Tensor,
    old_value: torch.Tensor,
    returns: torch.Tensor,
    action_start: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Half the squared error of the critic, a scalar: mean over action starts.

    The larger of two errors counts: that of the value, and that of the value kept within `clip` of the old
    one.
    """
    _check(action_start, value=value, old_value=old_value, returns=returns)
    kept = old_value + (value - old_value).clamp(-clip, clip)
    error = torch.maximum((value - returns).square(), (kept - returns).square())
    return 0.5 * (error * action_start).sum() / action_start.sum()


def action_log_ratio(
    old_logprob: torch.Tensor, new_logprob: torch.Tensor, action_start: torch.Tensor
) -> torch.Tensor:
    """log(new / old) probability of each action, (batch, actions); 0 for actions that a row does not have.

    The sum of the tokens' differences, each bounded by `LARGEST_STEP`. The sum is bounded too, far beyond
    every clip, since an infinite ratio would make the gradient of the clipped loss NaN.
    """
    steps = (new_logprob - old_logprob).clamp(-LARGEST_STEP, LARGEST_STEP)
    return by_action(steps, action_start).clamp(max=2 * LARGEST_STEP)


def by_action(tokens: torch.Tensor, action_start: torch.Tensor) -> torch.Tensor:
    """Sums over the tokens of each action: (batch, tokens) to (batch, most actions of a row)."""
    number = action_start.long().cumsum(1) - 1
    sums = tokens.new_zeros(len(tokens), int(number[:, -1].max()) + 1)
    return sums.scatter_add(1, number, tokens)


def to_tokens(actions: torch.Tensor, action_start: torch.Tensor) -> torch.Tensor:
    """The inverse of `by_action`: the number of each action at its first token, zero elsewhere."""
    return actions.gather(1, action_start.long().cumsum(1) - 1) * action_start


def whitened(advantage: torch.Tensor, action_start: torch.Tensor) -> torch.Tensor:
    """Mean 0 and variance 1 over the action starts of the batch, zero elsewhere."""
    at_starts = advantage[action_start > 0]
    variance = at_starts.var() if len(at_starts) > 1 else at_starts.new_zeros(())
    return (advantage - at_starts.mean()) * (variance + WHITENING_EPSILON).rsqrt() * action_start


def _check(action_start: torch.Tensor, **others: torch.Tensor) -> None:
    """GrlibError unless all tensors have one shape, are finite, and every response begins with an action."""
    shape = tuple(action_start.shape)
    for name, tensor in others.items():
        if tuple(tensor.shape) != shape or len(shape) != 2 or 0 in shape:
            raise GrlibError(
                f"{name} of shape {tuple(tensor.shape)}: must be (batch, tokens) as action_start {shape}; "
                "pad the responses to one length"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise GrlibError(f"{name} must be finite; lower the rate, or look at the sampled tokens")
    if not bool(((action_start == 0) | (action_start == 1)).all() and (action_start[:, 0] == 1).all()):
        raise GrlibError(
            "action_start must be 1 at the first token of each action, of which a response's first token is "
            "one, and 0 elsewhere"
        )
