import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.study import Claim, Run, Section, above, alike, paired_difference, report, together
from jaxrobust.files import replacing
from jaxrobust.reporting import CommandError, Table

ROOT = Path(__file__).parents[2]


def test_a_finished_cell_is_not_computed_again(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": 0.1}, {"weights": np.arange(3.0)}

    for _ in range(2):
        with Run(tmp_path, {"a": 1}) as run:
            cell = run.cell("train/sgd", compute)
    assert len(calls) == 1
    assert cell["x"] == 0.1
    np.testing.assert_array_equal(cell["arrays"]["weights"], [0, 1, 2])


@pytest.mark.parametrize("content", ["", '{"x": 0.', None])
def test_a_truncated_cell_is_computed_again(tmp_path, content):
    with Run(tmp_path, {}) as run:
        run.cell("a", lambda: {"x": 1})
        path = tmp_path / "cells" / "a.json"
        path.unlink() if content is None else path.write_text(content)
        (tmp_path / "cells" / ".a.json.tmp.json").write_text("rubbish")
        assert run.cell("a", lambda: {"x": 2})["x"] == 2


def test_another_configuration_is_refused_with_the_differences(tmp_path):
    with Run(tmp_path, {"seeds": (0, 1), "old": {"x": 1}}) as run:
        run.cell("a", lambda: {"x": 1})
    with Run(tmp_path, {"seeds": [0, 1], "old": {"x": 1}}):
        pass  # tuples and lists are the same JSON
    with pytest.raises(
        CommandError, match=r"\(new: now, but not there; old: there, but not now; seeds: .*\).*--output"
    ):
        Run(tmp_path, {"seeds": (0,), "new": {"y": 1}})
    with pytest.raises(CommandError, match=r"\(seeds: \[0, 1\] there, \[0\] now\)"):
        Run(tmp_path, {"seeds": (0,), "old": {"x": 1}})


@pytest.mark.parametrize("left", ["nothing", "cell", "checkpoints"])
def test_a_folder_without_results_takes_another_configuration(tmp_path, left):
    with Run(tmp_path, {"data set": "mistyped"}) as run:
        if left == "cell":
            run.cell("a", lambda: {"x": 1})
        elif left == "checkpoints":
            (tmp_path / "checkpoints").mkdir()
    if left == "nothing":
        with Run(tmp_path, {"data set": "digits"}):
            assert "digits" in (tmp_path / "config.json").read_text()
    else:
        with pytest.raises(CommandError, match="another configuration"):
            Run(tmp_path, {"data set": "digits"})


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with Run(tmp_path, {}), pytest.raises(CommandError, match="another run is using"):
        Run(tmp_path, {})
    with Run(tmp_path, {}):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"cannot write to .*--output"):
        Run(tmp_path / "file", {})


def test_metrics_hold_every_cell_once(tmp_path):
    with Run(tmp_path, {}) as run:
        run.cell("b", lambda: {"x": 1})
        run.cell("a", lambda: {"x": 2})
        run.write_metrics()
        run.write_metrics()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["cell"] for line in lines] == ["a", "b"]


def test_bars_in_cells_do_not_break_a_markdown_table():
    assert r"| \|A(0)\| | 1 |" in Table("caption", ["quantity", "value"], [["|A(0)|", "1"]]).markdown()


def test_sections_survive_the_disk(tmp_path):
    section = Section(
        "Title",
        ["text"],
        [Table("caption", ("a", "b"), [["1", "2"]])],
        [Claim("claim", "1", "2", "+1", "holds"), Claim("control", "", "", "", "not shown", counted=False)],
        [("figures/x", "caption")],
    )
    with Run(tmp_path, {}) as run:
        run.write_section("part", section)
        stored = run.read_section("part")
        assert run.read_section("other") is None
    assert stored is not None
    text = report("Report", ["hello"], [stored])
    assert text == report("Report", ["hello"], [section])
    assert "Claims: 1 × holds, 0 × does not hold, 0 × not shown." in text
    assert "| claim | 1 | 2 | +1 | holds |" in text
    assert "not shown (control)" in text
    assert "![caption](figures/x.png)" in text


def test_the_temporary_file_of_a_killed_run_is_no_cell(tmp_path):
    with Run(tmp_path, {}) as run:
        run.cell("a", lambda: {"x": 1})
        with replacing(tmp_path / "cells" / "b.json") as temporary:  # as at the moment of a kill
            temporary.write_text('{"cell": "b", "x": 2}')
            run.write_metrics()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"cell": "a", "x": 1}\n'


def test_claims_about_differences():
    higher, equal, unknown = (paired_difference([1.0, value], [0.0, 1.0]) for value in (2.1, 1.0, math.nan))
    claim = above("a above b", higher, (2.0, "table 1"))
    assert (claim.published, claim.difference, claim.verdict) == ("+2.00 (table 1)", "-0.95", "holds")
    assert above("a far above b", higher, at_least=5).verdict == "does not hold"
    assert above("a above b", equal).published == "not studied"
    assert alike("alike", equal, within=20, counted=False) == Claim(
        "alike", "not studied", equal.interval, "", "holds", False
    )
    claim = above("a above b", unknown, (2.0, "table 1"))
    assert (claim.ours, claim.difference, claim.verdict) == ("not defined for every seed", "", "not shown")


@pytest.mark.parametrize("workers", [1, 3])
class TestTogether:
    def test_steps_of_a_task_keep_their_order(self, workers):
        done = []
        tasks = [[functools.partial(done.append, (task, step)) for step in range(3)] for task in range(5)]
        together(tasks, workers)
        assert sorted(done) == [(task, step) for task in range(5) for step in range(3)]
        for task in range(5):
            assert [step for number, step in done if number == task] == [0, 1, 2]

    def test_an_error_is_passed_on_and_ends_the_other_tasks(self, workers):
        def fail():
            raise CommandError("full disk")

        done = []
        with pytest.raises(CommandError, match="full disk"):
            together([[fail], *[[functools.partial(time.sleep, 0.02), lambda: done.append(1)]] * 50], workers)
        assert len(done) < 50

    def test_a_cell_that_several_tasks_need_is_computed_once(self, workers, tmp_path):
        computed = []

        def shared():
            time.sleep(0.05)
            computed.append(1)
            return {"x": 2}

        with Run(tmp_path, {}) as run:

            def one(number):
                return run.cell(f"own/{number}", lambda: {"y": run.cell("shared", shared)["x"] + number})

            together([[functools.partial(one, number)] for number in range(4)], workers)
            assert [one(number)["y"] for number in range(4)] == [2, 3, 4, 5]
        assert computed == [1]


STUDY = """
import sys, time
from experiments.study import Run
with Run(sys.argv[1], {}) as run:
    values = [run.cell(f"cell{i}", lambda i=i: (time.sleep(0.15), {"x": i * 0.1})[1])["x"] for i in range(8)]
    run.write_metrics()
    run.write_text("report.md", repr(values))
"""


def test_killed_and_continued_equals_undisturbed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", STUDY, str(folder)], env=environment, stderr=subprocess.DEVNULL)

    whole, part = tmp_path / "whole", tmp_path / "part"
    undisturbed, killed = start(whole), start(part)
    deadline = time.monotonic() + 60
    while len(list(part.glob("cells/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (part / "report.md").exists()
    assert start(part).wait() == 0
    assert undisturbed.wait() == 0
    for name in ("report.md", "metrics.jsonl"):
        assert (part / name).read_text() == (whole / name).read_text()
    computed = [json.loads(line)["cell"] for line in (part / "timings.jsonl").read_text().splitlines()]
    assert len(computed) == len(set(computed)) == 8  # nothing was done twice


class TestStatistics:
    def test_estimate(self):
        from experiments.study import estimate

        assert estimate([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))
        assert math.isnan(estimate([1.0]).standard_error)
        assert str(estimate([1.0])) == "1.00"

    def test_paired_difference_agrees_with_scipy(self):
        from scipy.stats import ttest_rel

        a, b = [3.0, 4.5, 5.0, 7.0], [2.0, 4.0, 5.5, 5.0]
        found = paired_difference(a, b)
        expected = ttest_rel(a, b, alternative="greater")
        interval = ttest_rel(a, b).confidence_interval(0.95)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))

    def test_degenerate_cases(self):
        from experiments.study import paired_difference, verdict

        assert verdict(paired_difference([2.0], [1.0])) == "not shown"
        assert verdict(paired_difference([2.0, 3.0], [1.0, 2.0])) == "holds"
        assert verdict(paired_difference([1.0, 2.0], [2.0, 3.0])) == "does not hold"
        assert verdict(paired_difference([1.0, 2.0, 3.0], [2.0, 1.0, 3.0])) == "not shown"

    def test_alike_needs_the_whole_interval(self):
        from experiments.study import paired_difference, verdict_alike

        assert verdict_alike(paired_difference([2.0], [2.0]), within=1) == "not shown"
        assert verdict_alike(paired_difference([2.0, 3.0], [2.1, 3.1]), within=1) == "holds"
        assert verdict_alike(paired_difference([1.0, 3.0], [2.0, 2.0]), within=1) == "not shown"  # mean 0, any spread
        assert verdict_alike(paired_difference([5.0, 6.0], [2.0, 3.0]), within=1) == "does not hold"
        assert verdict_alike(paired_difference([2.0, 3.0], [5.0, 6.0]), within=1) == "does not hold"
        assert paired_difference([2.0], [1.0]).interval == "+1.00"
        assert paired_difference([2.0, 3.0], [1.0, 2.0]).interval == "+1.00 [+1.00, +1.00]"
        with pytest.raises(ValueError, match="one value per seed"):
            paired_difference([1.0], [1.0, 2.0])


def test_figures_are_the_same_every_time(tmp_path):
    from jaxrobust.reporting import save_figure, subplots

    contents = []
    for number in range(2):
        figure, axes = subplots()
        axes[0][0].plot([0, 1], [1, 0], label="x")
        save_figure(figure, tmp_path / f"{number}" / "figure")
        contents.append([(tmp_path / f"{number}" / f"figure{suffix}").read_bytes() for suffix in (".png", ".pdf")])
    assert contents[0] == contents[1]
