"""Seeds that JAX would fold onto others are refused wherever a seed enters."""

import jax
import numpy as np
import pytest
from helpers import SPACES

import eproxy_jax as ep
from eproxy_jax import proxy, sampling
from eproxy_jax.cli import config, main
from eproxy_jax.dps import genes
from eproxy_jax.errors import check_seed

BAD = [2**32, 2**63, 10**400, -1, 1.0, 1.5, "1", None, True, np.float32(1), np.int64(-1), np.uint64(2**33)]
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
TABLE = genes.GeneTable()


def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, IMAGES)
    return path


ENTRIES = {
    "check_seed": lambda seed, _: check_seed(seed),
    "typed_key": lambda seed, _: proxy.typed_key(seed),
    "key_identity": lambda seed, _: proxy.key_identity(seed),
    "ep.score": lambda seed, _: ep.score([(3,) * 6], SPACES["nasbench201"], key=seed),
    "ep.arch_key": lambda seed, _: ep.arch_key(seed, SPACES["nasbench201"], (3,) * 6),
    "ep.evaluate": lambda seed, _: ep.evaluate(lambda *_: 1.0, [(3,) * 6], SPACES["nasbench201"], key=seed),
    "ep.eproxy": lambda seed, _: ep.eproxy(SPACES["nasbench201"]).init(seed, IMAGES),
    "ep.runs.score": lambda seed, folder: ep.runs.score([(3,) * 6], SPACES["nasbench201"], key=seed, workdir=folder),
    "search, key": lambda seed, _: ep.search_proxy(_labelled(), SPACES["nasbench201"], key=seed),
    "search, search_key": lambda seed, _: ep.search_proxy(_labelled(), SPACES["nasbench201"], search_key=seed),
    "random_settings": lambda seed, _: genes.random_settings(TABLE, 1, seed),
    "mutated_settings": lambda seed, _: genes.mutated_settings(TABLE, np.zeros(len(TABLE.sizes), int), 0.5, 1, seed),
    "draw_distinct": lambda seed, _: sampling.draw_distinct(5, 2, seed, "a list"),
    "load_images": lambda seed, folder: ep.load_images(images(folder), 2, seed),
    "weight_seed": lambda seed, _: _built(weight_seed=seed),
    "images.seed": lambda seed, _: _built(images={"seed": seed}),
    **{f"sample of {name}": lambda seed, _, name=name: SPACES[name].sample(1, seed) for name in SPACES},
}


def _labelled():
    return {arch: float(n) for n, arch in enumerate([(3,) * 6, (2,) * 6, (1,) * 6])}


def _built(**change):
    values = config.default_config().to_dict()
    for name, value in change.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return config.build(config.ml_collections.ConfigDict(values))


@pytest.mark.parametrize("entry", ENTRIES)
def test_seeds_that_would_be_folded_are_refused(entry, tmp_path):
    for seed in BAD:
        with pytest.raises(ValueError, match="expected an integer"):
            ENTRIES[entry](seed, tmp_path)


@pytest.mark.parametrize("flag", ["--seed", "--weight-seed", "--settings-seed"])
@pytest.mark.parametrize("seed", [str(2**32), "-1", "1.5", "x", "9" * 5000])
def test_flags(flag, seed, capsys):
    with pytest.raises(SystemExit) as error:
        main.main(["bank", "--space", "nasbench201", f"{flag}={seed}"])
    assert error.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "expected an integer from 0 to 4294967295, got" in message
    assert len(message) < 250


def test_good_seeds():
    for seed in (0, 2**32 - 1, np.int64(7), np.uint32(2**32 - 1)):
        assert proxy.key_identity(seed) == int(seed)
        assert jax.random.key_data(proxy.typed_key(seed)).tolist() == [0, int(seed)]
    key = jax.random.key(5)
    assert proxy.typed_key(key) is key
    with pytest.raises(ValueError, match="or a typed key, jax.random.key"):
        proxy.typed_key(jax.random.key_data(key))  # a raw key
