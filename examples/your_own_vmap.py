"""Eproxy in a loop of your own: pure functions of one candidate, mapped over architectures and over weight seeds.

  python examples/your_own_vmap.py

One compiled program trains every network under every seed. Prints the mean score of each network over the seeds, and
how much the seeds scatter.
"""

import jax
import jax.numpy as jnp

import eproxy_jax as ep


def main() -> None:
    """Train [A] architectures under [N] keys with one vmapped program."""
    space = ep.spaces.get("nasbench201", stem_channels=4, cells_per_stage=1)
    settings = ep.ProxySettings(branches=(ep.BranchSettings(transform_channels=16, target_channels=16),))
    archs = list(dict.fromkeys(space.canonical(arch) for arch in space.sample(4, seed=0)))
    group = space.group(archs[0])  # the architectures that share a program: here, all of the space

    key = jax.random.key(0)
    init, losses = ep.eproxy(group, settings)
    task = init(key, ep.default_images(num=4, size=8))  # targets and barriers, shared by all candidates

    @jax.jit
    def train(keys, encoded):
        """Keys [A, N] and architectures [A, ...] -> losses [A, N, S]."""
        over_seeds = jax.vmap(losses, (0, None, None))
        return jax.vmap(over_seeds, (0, 0, None))(keys, encoded, task)

    # Column 0 has the keys of ``ep.score``: its losses are those of ``ep.score``, up to rounding.
    own = [ep.arch_key(key, space, arch) for arch in archs]
    keys = jnp.stack([jnp.stack([k, jax.random.fold_in(k, 1), jax.random.fold_in(k, 2)]) for k in own])
    curves = train(keys, jnp.asarray(group.encode(archs)))

    scores = -curves[..., -1]
    for i in jnp.argsort(-scores.mean(1)):
        print(f"{scores[i].mean():8.4f} ± {scores[i].std():.4f}  {space.format(archs[i])}")
    spread = scores.mean(1).std() / scores.std(1).mean()
    print(f"networks scatter {spread:.1f} times as much as seeds; losses {curves.shape}")


if __name__ == "__main__":
    main()
