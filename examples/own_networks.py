"""Rank networks of your own: four small MLP-Mixers, one compilation each.

  python examples/own_networks.py

configs/mixer.py is the same family for the command line. Tolstikhin et al., "MLP-Mixer", NeurIPS 2021.
"""

import itertools

import flax.linen as nn

import eproxy_jax as ep


class Mixer(nn.Module):
    """Patches, then blocks that mix tokens and channels in turn."""

    patch: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, images):
        """[B, H, W, 3] -> feature maps [B, H / patch, W / patch, width] after each block, last one first."""
        batch, height, width, _ = images.shape
        rows, columns = height // self.patch, width // self.patch
        x = images.reshape(batch, rows, self.patch, columns, self.patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = nn.Dense(self.width)(x.reshape(batch, rows * columns, -1))
        maps = []
        for _ in range(self.depth):
            x = x + self.mix(nn.LayerNorm()(x).swapaxes(1, 2)).swapaxes(1, 2)
            x = x + self.mix(nn.LayerNorm()(x))
            maps.append(x.reshape(batch, rows, columns, self.width))
        return maps[::-1][:3]

    def mix(self, x):
        """A perceptron with one hidden layer along the last axis."""
        return nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(2 * x.shape[-1])(x)))


def main() -> None:
    """Score the family and print the ranking."""
    ep.configure()
    archs = list(itertools.product((2, 4), (8, 16), (1,)))  # (patch, width, depth)
    space = ep.spaces.from_flax(lambda arch: Mixer(*arch), archs)
    branch = ep.BranchSettings(features=("wave_l", "dot"), transform_channels=16, target_channels=16)
    # Layer norms do not bear the learning rate of batch-normalised networks.
    settings = ep.ProxySettings(lr=0.1, branches=(branch,))
    result = ep.score(archs, space, settings, ep.default_images(num=4, size=16))
    for i in result.ranking():
        print(f"{result.score[i]:8.4f}  {result.macs[i] / 1e6:5.2f} M MACs  (patch, width, depth) = {result.archs[i]}")


if __name__ == "__main__":
    main()
