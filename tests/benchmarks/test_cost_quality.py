"""What a ranking costs, and the figure of it."""

import itertools

import cost_quality
import numpy as np
import pytest

SECONDS = cost_quality.SECONDS


def row(name, seconds, value="0.700 / 0.600"):
    return {"ranking": name, SECONDS: seconds, **dict.fromkeys(cost_quality.TASKS, value)}


ROWS = [
    row("rank_sum", "-", "0.900 / 0.800"),
    row("vkdnw_agg", "-"),
    row("macs", "0.000"),
    row("jacov", "0.300"),
    row("naswot", "0.300"),
    row("trainability", "0.400"),
    row("entropy_taps", "0.400"),
    row("synflow", "0.020"),
    row("eproxy", "0.500"),
    row("MACs as written", "-"),
]


def test_a_sum_costs_the_union_of_its_passes():
    points = {point.name: point for point in cost_quality.proxy_points(ROWS, "paper")}
    assert points["rank_sum"].seconds == pytest.approx(0.3 + 0.4 + 0.02)
    assert points["rank_sum"].spearman == pytest.approx(0.8)  # each function once
    assert points["vkdnw_agg"].seconds is None  # the pass of vkdnw was not timed
    assert points["eproxy"].seconds == 0.5
    assert points["macs"].seconds == 0
    assert "MACs as written" not in points


def test_a_fit_costs_its_columns_and_trainings():
    passes = cost_quality.seconds_by_pass(ROWS)
    rows = [
        {"task": task, "labels": 20, "method": method, "spearman": 0.9, "settings": 28}
        for task in cost_quality.TASKS
        for method in cost_quality.SHOWN_FITS
    ]
    cheap = 0.3 + 0.4 + 0.02
    found = {point.name: point.seconds for point in cost_quality.fit_points(rows, passes, 6)}
    assert found == pytest.approx(
        {
            "fit, no Eproxy": cheap,
            "fit, portfolio": cheap + 6 * 0.5,
            "fit, full bank": cheap + 28 * 0.5,
        }
    )
    assert [point.seconds for point in cost_quality.fit_points(rows, {}, 6)] == [None] * 3
    rows = [row for row in rows if row["method"] == "prior + process"]  # columns without Eproxy's
    assert [(p.name, p.seconds) for p in cost_quality.fit_points(rows, passes, 6)] == [
        ("fit, no Eproxy", pytest.approx(cheap))
    ]
    assert cost_quality.fit_points(rows[1:], passes, 6) == []  # a run that is under way


def test_the_front_is_of_points_that_no_cheaper_one_equals():
    points = [
        cost_quality.Point(str(i), "proxy", *pair, "paper")
        for i, pair in enumerate([(0, 0.5), (1, 0.4), (1, 0.7), (2, 0.7), (None, 0.9)])
    ]
    assert [point.name for point in cost_quality.front(points)] == ["0", "2"]


def test_labels_overlap_neither_one_another_nor_points():
    points = np.asarray([(100.0, 50 + 7 * i) for i in range(15)] + [(110.0, 100.0)])
    sizes = np.tile((60.0, 14.0), (16, 1))
    legend = (0, 0, 95, 400)
    boxes = cost_quality.place(points, sizes, (0, 0, 400, 400), 8, [legend])
    for a, b in itertools.combinations([*boxes, legend], 2):
        assert not cost_quality.overlap(a, b)
    for box, (x, y) in itertools.product(boxes, points):
        assert not cost_quality.overlap(box, (x - 4, y - 4, x + 4, y + 4))
    with pytest.raises(ValueError, match="no room for label"):
        cost_quality.place(points, sizes, (0, 0, 150, 40), 8)


def test_a_figure_of_all_proxies_and_fits_has_room(tmp_path):
    from eproxy_jax import proxies

    rng = np.random.default_rng(0)
    costs = {
        name: float(c)
        for name, c in zip(proxies.names(), rng.choice([0.0, 0.02, 0.36, 0.38, 1.5, 4.0], 40), strict=False)
    }
    points = [cost_quality.Point(name, "proxy", c, float(rng.uniform(0.4, 0.9)), "paper") for name, c in costs.items()]
    points += [
        cost_quality.Point(name, "sum of ranks", 0.76, 0.9 + 0.01 * i, "paper")
        for i, name in enumerate(("az_nas", "vkdnw_agg", "rank_sum"))
    ]
    points += [
        cost_quality.Point(name, "fit, 20 labels", 0.76 + i, 0.94, "small")
        for i, name in enumerate(cost_quality.SHOWN_FITS.values())
    ]
    cost_quality.draw(points, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
