"""Claim: the world "headroom" has spread where SFT and RL leave it, and little of it is RL noise.

The world is chosen by these criteria alone, written down before its first run, and never by which
proxy or which search does well in it:

1. pass@64 of the base is under 0.5 on at least two skills.
2. Among the checkpoints that are healthy before RL (pass@1 at least a quarter of the base's), the
   standard deviation of the score after 60 steps is at least 5 times that of an RL seed; and at
   least 3 times after 240 steps.
3. The best of 6 random recipes misses the best tenth at least half of the time, where a score
   within two RL-seed standard deviations of the tenth counts as in it.
4. A checkpoint costs at most 90 CPU-s: SFT, measuring, 60 steps of GRPO with one seed.

What may be changed to meet them: the skills, the budget of examples, the range of the axes, the RL
pool, before the 48 recipes are run. Each try is counted in docs/LOG.md.
"""
