"""Search under a latency limit: which networks to train next, and the front of value against latency.

  python examples/search_latency.py

Nothing is trained here. The latency is a table of milliseconds an operation, as measured on a device; the value that a
search is told is a stand-in for the accuracy of a training. Prints the best network found within the limit, how it
stands among all that keep the limit, and the front of a second search that minimises the latency.
"""

import eproxy_jax as ep

LIMIT = 5.0
# Milliseconds of an edge by its operation: none, skip, 1x1, 3x3, pool.
MILLISECONDS = (0.0, 0.1, 0.6, 1.7, 0.5)
# What an edge adds to the value, in the same order.
WORTH = (0.0, 0.3, 1.0, 2.0, 0.2)


def main() -> None:
    """Search twice, with a limit and for a front, and print what was found."""
    space = ep.spaces.get("nasbench201")

    def latency(arch):
        return 1.0 + sum(MILLISECONDS[op] for op in space.canonical(arch))

    def value(text):
        return sum(WORTH[op] for op in space.canonical(space.parse(text)))

    archs = list(dict.fromkeys(space.format(space.canonical(arch)) for arch in space.sample(400, seed=0)))
    result = ep.score(archs, space, proxy="macs,params,graph_counts")  # of the graph alone; add proxies in earnest
    columns = ep.Columns.of(result.archs, result.columns)
    measures = {"latency": latency}

    state = ep.search.init(space, columns, constraints={"latency": LIMIT}, measures=measures, seed=0)
    for _ in range(6):
        asked, state = ep.search.ask(state, 4)
        state = ep.search.tell(state, asked, [value(arch) for arch in asked])
    best = state.best
    within = [value(arch) for arch in archs if latency(space.parse(arch)) <= LIMIT]
    better = sum(other > value(best.arch) for other in within)
    print(f"{value(best.arch):.1f} in {latency(space.parse(best.arch)):.1f} ms  {best.arch}")
    print(f"24 of {len(within)} networks within {LIMIT} ms were measured; {better} are better than the best of them")

    state = ep.search.init(space, columns, objectives=("value", "-latency"), measures=measures, seed=0)
    for _ in range(6):
        asked, state = ep.search.ask(state, 4)
        state = ep.search.tell(state, asked, [value(arch) for arch in asked])
    for found in sorted(state.front, key=lambda one: latency(space.parse(one.arch))):
        print(f"{value(found.arch):4.1f} in {latency(space.parse(found.arch)):.1f} ms  {found.arch}")


if __name__ == "__main__":
    main()
