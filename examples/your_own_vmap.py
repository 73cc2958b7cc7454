"""Eproxy in a loop of your own: a pure function of one candidate, mapped over weight seeds.

  python examples/your_own_vmap.py

One compiled program serves every network, because the architecture is data. The map is over keys only, so each network
runs its own operations only. Prints the mean score of each network over the seeds, and how much the seeds scatter.
"""

import jax
import jax.numpy as jnp

import eproxy_jax as ep

NUM_SEEDS = 3


def main() -> None:
    """Train each network under [N] keys with one vmapped program."""
    ep.configure()  # compiled programs are kept for the next run
    space = ep.spaces.get("nasbench201", stem_channels=4, cells_per_stage=1)
    settings = ep.ProxySettings(branches=(ep.BranchSettings(transform_channels=16, target_channels=16),))
    archs = list(dict.fromkeys(space.canonical(arch) for arch in space.sample(4, seed=0)))
    group = space.group(archs[0])  # the architectures that share a program: here, all of the space

    key = jax.random.key(0)
    init, losses = ep.eproxy(group, settings)
    task = init(key, ep.default_images(num=4, size=8))  # targets and barriers, shared by all candidates
    train = jax.jit(jax.vmap(losses, (0, None, None)))  # keys [N], one architecture, task -> losses [N, S]

    scores = []
    for arch, encoded in zip(archs, group.encode(archs), strict=True):
        own = ep.arch_key(key, space, arch)  # with this key, the losses are those of ``ep.score``, up to rounding
        keys = jnp.stack([own, *(jax.random.fold_in(own, seed) for seed in range(1, NUM_SEEDS))])
        scores.append(-train(keys, encoded, task)[:, -1])
    table = jnp.stack(scores)  # [A, N]

    for i in jnp.argsort(-table.mean(1)).tolist():
        print(f"{table[i].mean():8.4f} ± {table[i].std():.4f}  {space.format(archs[i])}")
    print(f"networks scatter {table.mean(1).std() / table.std(1).mean():.1f} times as much as seeds")


if __name__ == "__main__":
    main()
