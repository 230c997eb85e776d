"""How a page groups, names and draws what it is given."""

import re

import numpy as np
import pandas as pd

from pipeline.report import plots
from pipeline.report.html import TEMPLATE
from pipeline.report.page import metric_rows, protocol_rows
from pipeline.report.showcase import choose_rows


def test_real_and_fake_share_a_panel():
    columns = ["loss_discriminator", "accuracy_real_matching", "accuracy_fake_matching", "loss_generator", "seconds"]
    columns += ["sigma_generator_first", "sigma_generator_last"]
    assert plots.panels(columns) == {
        "loss": {"discriminator": "loss_discriminator", "generator": "loss_generator"},
        "accuracy matching": {"real": "accuracy_real_matching", "fake": "accuracy_fake_matching"},
        "seconds": {"": "seconds"},
        "sigma generator": {"first": "sigma_generator_first", "last": "sigma_generator_last"},
    }


def test_curves_are_escaped_svg_in_the_pages_colours():
    history = pd.DataFrame({"step": [1, 2, 3], "<b>": [1.0, np.nan, 2.0], "loss_generator": [3.0, 2.0, 1.0]})
    odd, loss = plots.curves(history, 1)
    assert "<b>" not in odd and 'aria-label="&lt;b&gt;: by iteration, from 1 to 2"' in odd
    assert 'aria-label="loss: by iteration, generator from 3 to 1"' in loss
    assert "var(--series-1)" in loss and "#0102" not in loss and "<style" not in loss
    assert loss.count("<svg") == 1 and loss.rstrip().endswith("</svg>")
    assert plots.curves(history, 1) == [odd, loss]  # the same bytes again
    ids = [set(re.findall(r' id="([^"]+)"', loss)) for loss in (loss, plots.curves(history, 2)[1])]
    assert ids[0] and not ids[0] & ids[1]  # of the same curve at another level


def test_spectra_a_plot_for_each_frame_even_of_black_videos():
    table = pd.DataFrame({"frame": [1, 1, 8, 8], "cycles": [0, 1, 0, 1]})
    for side in ("real", "generated"):
        table[f"{side}_mean"] = 0.0
        table[f"{side}_deviation"] = 0.0
    drawn = plots.spectra(table)
    assert len(drawn) == 2 and ">frame 8<" in drawn[1]


def test_motion_and_counts_are_drawn_where_there_are_any():
    steps = pd.DataFrame({"step": [1, 2], "real_mean": [5.0, 6], "real_deviation": 1.0})
    (drawn,) = plots.motion(steps.assign(generated_mean=[4.0, 3], generated_deviation=0.5))
    assert "on average, real 5.5, generated 3.5" in drawn
    assert plots.motion(steps.iloc[:0]) == [] == plots.by_count(pd.DataFrame())
    counts = {"metric": ["fvd", "fvd", "fid", "fid"], "n": [10, 1000] * 2, "mean": [9.0, 5, 4, 3]}
    counts |= {"infinity": [np.nan] * 2 + [2.5] * 2, "slope": [np.nan] * 2 + [15.0] * 2}
    fvd, fid = plots.by_count(pd.DataFrame({**counts, "low": [8.0, 4, 3, 2], "high": [10.0, 6, 5, 4]}))
    assert 'aria-label="fvd: 9 of 10 videos, 5 of 1,000 videos"' in fvd and ">1,000<" in fvd and ">1,000<" in fid
    assert '; 2.5 of infinitely many"' in fid and "var(--series-2)" in fid
    assert "infinitely" not in fvd and "var(--series-2)" not in fvd


def test_metrics_are_explained():
    names = {"random_i3d_frechet_logits": 12.3456, "fid": 1.0, "grounding_psnr_level_3": 20.0, "other": 2}
    rows = metric_rows(names, [])
    assert [row.values[0] for row in rows] == ["12.35", "1", "20", "2"]
    assert "no FVD" in rows[0].meaning and rows[0].better == "lower"
    assert "Kinetics-600" in rows[1].meaning and rows[2].unit == "dB" and rows[3].meaning == ""
    deviation, score = metric_rows({"inception_score_deviation": 1.0, "inception_score": 5.0}, [])
    assert deviation.better == "" and score.better == "higher"
    infinite, recall = metric_rows({"fvd_infinity": 3.0, "random_i3d_recall": 0.5}, [])
    assert "Kinetics-400; of infinitely many videos" in infinite.meaning and infinite.better == "lower"
    assert "random I3D" in recall.meaning and recall.better == "higher"


def test_protocol_in_words():
    given = {"psd_frames": [1, 6], "logits_sha256": None, "pyramid": "ab" * 32, "sigma": 1.0, "k": []}
    shown = {"psd frames": "1, 6", "logits sha256": "none", "pyramid": "abababababababab…", "sigma": "1.0", "k": "none"}
    assert protocol_rows(given) == shown


def test_rows_show_as_many_classes_as_they_can():
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert choose_rows(labels, 3) == [0, 3, 5]
    assert choose_rows(labels, 5) == [0, 3, 5, 1, 4]
    assert choose_rows(labels, 2) == [0, 5]
    assert choose_rows(np.full(4, -1), 3) == [0, 1, 2]


def test_text_stands_out_from_its_ground_in_both_schemes():
    """WCAG 2's contrast: 4.5 for text, 3 for lines of a plot."""
    light, dark = re.findall(r":root {(.*?)}", (TEMPLATE / "base.css").read_text(), flags=re.DOTALL)
    for scheme in (light, dark):
        found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        assert len(found) >= 11
        for ground in ("paper", "card", "callout"):
            for text in ("ink", "ink-2", "accent"):
                assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
        for number in range(1, 5):
            assert contrast(found[f"series-{number}"], found["card"]) >= 3


def contrast(one: str, other: str) -> float:
    dark, light = sorted(luminance(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
