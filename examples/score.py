"""Rank some networks of NAS-Bench-201 without training them.

  python examples/score.py           # tiny sizes: seconds, most of them compilation
  python examples/score.py --paper   # the paper's sizes: about a second a network on 2 CPU cores

Prints the networks from best to worst, and how alike the rankings by score and by MACs are.
"""

import argparse

import eproxy_jax as ep


def main() -> None:
    """Score a random sample and print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=6, help="networks (default 6)")
    parser.add_argument("--paper", action="store_true", help="the paper's sizes")
    arguments = parser.parse_args()
    ep.configure()  # one JAX device a core; compiled programs are kept for the next run

    space, settings, images = ep.spaces.get("nasbench201"), ep.ProxySettings(), ep.default_images()
    if not arguments.paper:
        space = ep.spaces.get("nasbench201", stem_channels=4, cells_per_stage=1)
        settings = ep.ProxySettings(branches=(ep.BranchSettings(transform_channels=16, target_channels=16),))
        images = ep.default_images(num=4, size=8)

    result = ep.score(space.sample(arguments.num, seed=0), space, settings, images, key=0)
    for i in result.ranking():
        print(f"{result.score[i]:8.4f}  {result.macs[i] / 1e6:7.2f} M MACs  {result.status[i]:8}  {result.archs[i]}")
    agreement = ep.rank_quality(result.score, result.macs).spearman
    print(f"Spearman of score and MACs: {agreement:.2f}; {result.seconds['compile']:.0f} s compilation")


if __name__ == "__main__":
    main()
