"""Tests of `scripts/bench`: what becomes of samples, which arguments are refused, and short runs of all of it.

Runs with the programs in WEFT_BIN. Needs root.
"""

import contextlib
import io
import json
import signal
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import rig
from cases import CASES, KERNEL, WEFT
from gauges import OFFLOADS
from rigs import pods
from run import call

RIGS = {"pods": pods}
CASE = {case.name: case for case in CASES}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def rows(name, weft, kernel, variant=None):
    """The rows of samples that were never measured."""
    samples = {variant: {subject: taken for subject, taken in ((WEFT, weft), (KERNEL, kernel)) if taken}}
    return list(pods.rows_of(CASE[name], samples, {"uplink": "socket"}))


def common(**figures):
    return figures | {"cpu_s": 1.0, "weftd_cpu_s": {"w1": 0.1}}


class Rows(unittest.TestCase):
    def test_the_median_counts_and_is_compared(self):
        ours, kernels = rows("tcp1-cross", [common(gbps=n, loss=0.0) for n in (9.0, 1.0, 6.0)],
                             [common(gbps=n, loss=0.0) for n in (10.0, 11.0, 3.0)])  # fmt: skip
        self.assertEqual((ours["subject"], kernels["subject"]), (WEFT, KERNEL))
        self.assertEqual((ours["gbps"], kernels["gbps"], ours["ratio"]), (6.0, 10.0, 0.6))
        self.assertEqual(ours["rounds"]["gbps"], [9.0, 1.0, 6.0])
        self.assertEqual((ours["met_at_least"], ours["met_aim"]), (True, False))
        self.assertNotIn("ratio", kernels)
        self.assertEqual(ours["uplink"], "socket")

    def test_below_what_is_asked_for(self):
        ours, _ = rows("tcp1-cross", [common(gbps=5.99, loss=0.0)], [common(gbps=10.0, loss=0.0)])
        self.assertFalse(ours["met_at_least"])

    def test_of_two_figures_both_must_reach(self):
        ask = lambda p50, p99, loss=0.0: [common(p50_us=p50, p99_us=p99, loss=loss)]
        for weft, at_least, aim in (
            (ask(100, 200), True, True),
            (ask(120, 200), True, False),
            (ask(100, 270), False, False),
            (ask(50, 50, 0.002), False, False),
        ):
            ours, _ = rows("rr-udp", weft, ask(100, 200))
            self.assertEqual((ours["met_at_least"], ours["met_aim"]), (at_least, aim), weft)

    def test_a_difference(self):
        ask = lambda p50: [common(p50_us=p50, p99_us=900, loss=0.0)]
        for p50, met in ((150, True), (151, False)):
            ours, _ = rows("first-after-idle", ask(p50), ask(50))
            self.assertEqual((ours["more_p50_us"], ours["met_at_least"]), (p50 - 50, met))

    def test_a_plain_figure(self):
        for percent, at_least, aim in ((0.1, True, True), (0.5, True, False), (1.1, False, False)):
            (ours,) = rows("idle", [common(cpu_pct=percent)], None)
            self.assertEqual((ours["met_at_least"], ours["met_aim"]), (at_least, aim))

    def test_the_table_says_when_rounds_are_few(self):
        sample = [common(gbps=10.0, loss=0.0)]
        self.assertIn("aim (1 round)", pods.table(rows("tcp1-cross", sample, sample)))
        self.assertIn("aim (2 rounds)", pods.table(rows("tcp1-cross", sample * 2, sample * 2)))
        self.assertNotIn("round", pods.table(rows("tcp1-cross", sample * 3, sample * 3)))


class Arguments(unittest.TestCase):
    def test_what_means_nothing_is_refused(self):
        for words, said in (
            ("tcp9-cross", "no such case: tcp9-cross"),
            ("--workers 2 --cores 0/1", "--workers"),
            ("--cores 0,1/1", "as many workers"),
            ("--ends 0,1/1", "one core"),
            ("--require --rounds 2", "3 rounds"),
            ("--rounds 0", "above 0"),
        ):
            with self.subTest(words), contextlib.redirect_stderr(io.StringIO()) as err:
                with self.assertRaises(SystemExit) as ended:
                    pods.arguments(words.split())
                self.assertEqual(ended.exception.code, 2)
                self.assertIn(said, err.getvalue())

    def test_what_means_something_is_not(self):
        options = pods.arguments("idle --cores 0,1/2,3 --ends 0/1 --set dataplane.idle=poll".split())
        self.assertEqual(options.cases, ["idle"])
        self.assertEqual(options.set, [("dataplane", "idle", "poll")])


class Runs(unittest.TestCase):
    def run_bench(self, name, *words):
        """A run of a rig in this process: its exit code, what it said, and its rows."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out, \
                contextlib.redirect_stderr(io.StringIO()) as err:  # fmt: skip
            path = Path(folder) / "rows.json"
            words = [*words, "--rounds", "1", "--seconds", "1", "--json", str(path)]
            try:
                code = rig.main(name, RIGS[name], Path(folder), words)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            self.assertEqual(list(Path(folder).glob("*.new")), [], err.getvalue())
            written = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if written:
            head = written.pop(0)
            self.assertEqual(head["rig"], name)
            self.assertGreater(head["machine"]["tsc_hz"], 0)
        return code, out.getvalue() + err.getvalue(), written

    def test_one_case(self):
        code, said, written = self.run_bench("pods", "tcp1-cross")
        self.assertEqual(code, 0, said)
        self.assertEqual([row["subject"] for row in written], [WEFT, KERNEL], said)
        for row in written:
            self.assertGreater(row["gbps"], 0, row)
            self.assertEqual((row["uplink"], row["case"]), ("socket", "tcp1-cross"))
        self.assertGreater(sum(written[0]["weftd_cpu_s"].values()), 0)
        self.assertEqual(sum(written[1]["weftd_cpu_s"].values()), 0, "weftd runs while the kernel is measured")
        self.assertIn("(1 round)", said)

    def test_offloads_that_are_off_stop_it(self):
        assemble = pods.lab.assemble

        def assemble_and_turn_off(run, nodes):
            assemble(run, nodes)
            call("ip", "netns", "exec", nodes[-1].pods[0].netns, "/usr/bin/python3", "-B", OFFLOADS, "eth0")

        with mock.patch.object(pods.lab, "assemble", assemble_and_turn_off):
            code, said, written = self.run_bench("pods", "tcp1-cross")
        self.assertEqual((code, written), (1, []), said)
        self.assertIn("k21 eth0: tx-checksumming", said)

    def test_an_uplink_that_is_not_in_force_stops_it(self):
        answer = pods.lab.WeftNode.json

        def another(node, *words):
            answered = answer(node, *words)
            if words == ("status",) and node.name == "w2":
                answered["uplink"]["kind"] = "another"
            return answered

        with mock.patch.object(pods.lab.WeftNode, "json", another):
            code, said, written = self.run_bench("pods", "tcp1-cross")
        self.assertEqual((code, written), (1, []), said)
        self.assertIn("w2: the uplink is another in place of socket", said)


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=2).result
    wrong = len(result.failures) + len(result.errors) + len(result.skipped)
    print(f"bench: {result.testsRun - wrong} passed, {wrong} failed")
    sys.exit(1 if wrong else 0)
