"""Genomes: the codec, random ones, mutants, and what a table refuses."""

import jax
import numpy as np
import pytest

from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.types import FEATURES, ProxySettings

TABLE = GeneTable()


def test_sizes_are_those_of_the_protocol():
    sizes = dict(zip(TABLE.names, TABLE.sizes, strict=True))
    assert (sizes["lr"], sizes["alpha"], sizes["branches"], sizes["network_init"]) == (11, 11, 3, 4)
    assert (sizes["net.0"], sizes["level.1"], sizes["barrier_kernel.2"], sizes["target_channels.2"]) == (2, 4, 3, 6)
    assert len(TABLE.sizes) == 5 + 3 * 10


@pytest.mark.parametrize("seed", range(5))
def test_decode_and_encode_are_inverse(seed):
    genes = TABLE.random_genes(jax.random.key(seed))
    settings = TABLE.decode(genes)
    np.testing.assert_array_equal(TABLE.encode(settings), TABLE.canonical(genes))
    assert ProxySettings.from_dict(settings.to_dict()) == settings
    assert GeneTable.from_dict(TABLE.to_dict()) == TABLE


def test_random_genomes_follow_the_initial_distribution():
    genes = np.asarray(jax.vmap(TABLE.random_genes)(jax.random.split(jax.random.key(0), 3000)))
    assert (genes >= 0).all()
    assert (genes < np.asarray(TABLE.sizes)).all()
    lr = np.bincount(genes[:, 0], minlength=11) / 3000
    np.testing.assert_allclose(lr, 1 / 11, atol=0.03)
    features = genes[:, 5:10]
    assert (features.sum(1) > 0).all()
    # 0.2, and its share of the 0.8^5 of branches that would have had none.
    np.testing.assert_allclose(features.mean(0), 0.2 + 0.8**5 / 5, atol=0.03)


def test_mutation_draws_about_a_fifth_of_the_genes_again():
    parent = TABLE.random_genes(jax.random.key(1))
    children = np.asarray(
        jax.vmap(lambda key: TABLE.mutate(key, parent, 0.2))(jax.random.split(jax.random.key(2), 2000))
    )
    changed = (children != np.asarray(parent)).mean(0)
    np.testing.assert_allclose(changed[0], 0.2 * 10 / 11, atol=0.04)
    assert (children[:, 5:10].sum(1) > 0).all()


def test_canonical_forgets_unused_branches():
    genes = np.array(TABLE.random_genes(jax.random.key(3)))
    genes[2] = 0  # one branch
    other = genes.copy()
    other[20:] = 0
    np.testing.assert_array_equal(TABLE.canonical(genes), TABLE.canonical(other))
    assert TABLE.decode(genes) == TABLE.decode(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": ()}, "genes.lr: expected a non-empty"),
        ({"lr": (1.0, 1.0)}, "stands twice"),
        ({"lr": (-1.0,)}, "genes.lr: choice -1.0"),
        ({"barrier_kernel": (2,)}, "genes.barrier_kernel: choice 2"),
        ({"branches": (4,)}, "from 1 to 3"),
        ({"network_init": ("xavier_norml",)}, "did you mean"),
        ({"feature_probability": 0}, "feature_probability"),
        ({"levels": [1.0]}, "did you mean 'level'"),
    ],
)
def test_bad_tables_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GeneTable.from_dict(change)


def test_bad_genomes_and_foreign_settings_are_refused():
    with pytest.raises(ValueError, match="expected 35 indices"):
        TABLE.decode([0] * 34)
    with pytest.raises(ValueError, match="settings.lr = 1.23 is none of"):
        TABLE.encode(ProxySettings(lr=1.23, network_init="xavier_normal", barrier_init="xavier_normal"))


def test_values_of_a_traced_genome():
    genes = TABLE.random_genes(jax.random.key(4))
    settings = TABLE.decode(genes)
    value = jax.jit(lambda g: TABLE.values(g, "transform_channels", 0))(genes)
    assert int(value) == settings.branches[0].transform_channels
    on = [int(TABLE.values(genes, feature, 0)) for feature in FEATURES]
    assert tuple(f for f, o in zip(FEATURES, on, strict=True) if o) == settings.branches[0].features
