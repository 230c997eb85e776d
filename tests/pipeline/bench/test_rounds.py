"""Rounds go through all ways in turn, and what is reported is the median of them."""

from pipeline.bench.rounds import interleaved, medians, table


def test_ways_take_turns_and_the_first_round_does_not_count():
    clock, turns = [0.0], []

    def way(name, seconds):
        coming = iter(seconds)

        def run():
            turns.append(name)
            clock[0] += next(coming)

        return run

    ways = {"fast": way("fast", [9.0, 1.0, 2.0, 4.0]), "slow": way("slow", [9.0, 2.0, 8.0, 6.0])}
    seconds = interleaved(ways, lambda: clock[0], rounds=3, desc="test")
    assert turns == ["fast", "slow"] * 4
    assert seconds.to_dict("list") == {"fast": [1.0, 2.0, 4.0], "slow": [2.0, 8.0, 6.0]}
    assert medians(seconds) == {"fast": 2.0, "slow": 6.0}
    assert medians(seconds, "fast") == {"fast": 1.0, "slow": 2.0}  # of 2, 4 and 1.5


def test_a_row_a_way():
    cost = {
        "clips_a_second": {"a": 30123.4, "bb": 1.25},
        "to_a": {"a": 1.0, "bb": 0.00162},
        "all_files": 3,
        "more": 1.8649,
    }
    assert [line.split() for line in table(cost).splitlines()] == [
        ["clips", "a", "second", "to", "a"], ["a", "30123", "1"], ["bb", "1.25", "0.00162"], [],
        ["all", "files:", "3"], ["more:", "1.86"],
    ]  # fmt: skip
