"""Rounds go through all ways in turn, and what is reported is the median of them."""

from pipeline.bench.rounds import interleaved, medians, ratios, table


def test_ways_take_turns_and_the_first_round_does_not_count():
    clock, turns = [0.0], []

    def way(name, seconds):
        def run(number):
            turns.append((number, name))
            clock[0] += seconds[number]

        return run

    ways = {"fast": way("fast", [9.0, 1.0, 2.0, 4.0]), "slow": way("slow", [9.0, 2.0, 8.0, 6.0])}
    seconds = interleaved(ways, lambda: clock[0], rounds=3, desc="test")
    assert turns == [(number, name) for number in range(4) for name in ("fast", "slow")]
    assert seconds == {"fast": [1.0, 2.0, 4.0], "slow": [2.0, 8.0, 6.0]}
    assert medians(seconds) == {"fast": 2.0, "slow": 6.0}
    assert ratios(seconds, "fast") == {"fast": 1.0, "slow": 2.0}  # of 2, 4 and 1.5


def test_a_row_a_way():
    text = table(
        "head", {"s": ("{:.1f}", {"a": 1.25, "bb": 10.0}), "ratio": ("{:.0f}", {"a": 1.0, "bb": 8.0})}, ["tail"]
    )
    assert [line.split() for line in text.splitlines()] == [
        ["head"], [], ["s", "ratio"], ["a", "1.2", "1"], ["bb", "10.0", "8"], [], ["tail"],
    ]  # fmt: skip
