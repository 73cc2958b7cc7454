"""Another proxy on a search space of this package: the norm of a gradient, without any training.

  python examples/own_proxy.py

``ep.evaluate`` maps a function of one candidate over a list: it merges equal functions, compiles once for a group,
batches, and uses all devices. Prints the networks by gradient norm, and how that ranking agrees with MACs.
"""

import jax
import jax.numpy as jnp
import numpy as np

import eproxy_jax as ep


def gradient_norm(network, key, encoded, images):
    """Norm of the gradient of a random projection of the last feature map.

    Args:
      network: ``init(key, images, encoded)``, and ``apply`` gives the feature taps, last one first.
      key: of this candidate.
      encoded: the architecture, as its space encodes it.
      images: [B, H, W, 3], standardised.
    """
    k_weights, k_projection = jax.random.split(key)
    params = network.init(k_weights, images, encoded)["params"]

    def projection(params):
        last = network.apply({"params": params}, images, encoded)[0]
        return jnp.mean(last * jax.random.normal(k_projection, last.shape))

    value, grads = jax.value_and_grad(projection)(params)
    return {"norm": jnp.sqrt(sum(jnp.sum(grad**2) for grad in jax.tree.leaves(grads))), "value": value}


def main() -> None:
    """Evaluate the proxy on a random sample."""
    ep.configure()
    space = ep.spaces.get("nasbench201", stem_channels=4, cells_per_stage=1)
    archs = space.sample(8, seed=0)
    images = ep.standardize(ep.default_images(num=4, size=8))
    columns = ep.evaluate(gradient_norm, archs, space, key=0, shared=(images,))
    norms = np.nan_to_num(columns["norm"], nan=-np.inf)  # networks that never see the images are not evaluated
    macs = [space.macs(arch) for arch in archs]
    for i in np.argsort(-norms):
        print(f"{norms[i]:9.5f}  {macs[i] / 1e6:5.2f} M MACs  {space.format(archs[i])}")
    print(f"Spearman with MACs: {ep.rank_quality(norms, macs).spearman:.2f}")


if __name__ == "__main__":
    main()
