"""Tests of `scripts/bench`: what becomes of samples, which arguments are refused, and short runs of all of it.

Runs with the programs in WEFT_BIN. Needs root.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import captures
import every
import machine
import rig
import run
from cases import CASES, KERNEL, WEFT
from gauges import OFFLOADS
from nodes import BIN
from rigs import control, core, latency, pods, reconf, scale, vhost
from run import LabError, call

RIGS = {"control": control, "core": core, "latency": latency, "pods": pods, "reconf": reconf, "scale": scale, "vhost": vhost}
CASE = {case.name: case for case in CASES}
EXAMPLE = Path(__file__).parents[2] / "perf/tests/report/rows.json"
BENCH = Path(__file__).with_name("bench.py")
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


class Control(unittest.TestCase):
    def test_etcd_is_away_for_a_minute_unless_the_run_is_quick(self):
        for words, seconds in (("", 60), ("--seconds 2", 60), ("--require", 60), ("--quick", 1), ("--quick --outage 3", 3)):
            self.assertEqual(control.arguments(words.split()).outage, seconds, words)
        self.assertEqual(control.arguments(["change", "--require", "--outage", "3"]).outage, 3, "nothing of it is required there")
        with contextlib.redirect_stderr(io.StringIO()) as err, self.assertRaises(SystemExit):
            control.arguments(["--require", "--outage", "59"])
        self.assertIn("an outage of less than 60 s", err.getvalue())

    def test_of_adding_pods_both_figures_must_reach(self):
        for value, alone, met in ((2.0, 50.0, True), (2.1, 10.0, False), (1.5, 50.1, False)):
            row = control.row_of("cni-add", [{"value": value, "alone_ms": alone}])
            self.assertEqual(row["met_at_least"], met, row)
            said = control.table([row]).splitlines()
            self.assertEqual(["NO" in line for line in said[1:]], [value > 2, alone > 50], said)
        samples = [{"value": value, "alone_ms": 9.0} for value in (1.5, 1.7, 2.2)]
        self.assertIn("1.5 to 2.2", control.table([control.row_of("cni-add", samples)]))


class Core(unittest.TestCase):
    """What becomes of samples of the core rig."""

    def judged(self, flows, mpps, earlier=(), frame="64", case="bridge"):
        medians = {subject: {"mpps": rate} for subject, rate in mpps.items()}
        return core.judged(core.Cell(case, flows, frame), medians, list(earlier))

    def test_at_least_by_ovs_and_aim_by_io(self):
        found = self.judged(1000, {"testpmd-io": 50.0, "ovs-dpdk": 18.0, "weft": 27.0})
        self.assertEqual(found["ratio"], {"testpmd-io": 0.54, "ovs-dpdk": 1.5})
        self.assertEqual((found["met_at_least"], found["met_aim"]), (True, False))
        self.assertEqual((found["at_least_of"], found["aim_of"]), ("ovs-dpdk", "testpmd-io"))
        found = self.judged(1000, {"testpmd-io": 50.0, "ovs-dpdk": 18.1, "weft": 27.0})
        self.assertFalse(found["met_at_least"])

    def test_a_million_flows_are_compared_with_a_thousand(self):
        row = {"case": "bridge", "flows": 1000, "frame": "64", "subject": "weft", "ratio": {"testpmd-io": 0.5}}
        for weft, at_least, aim in ((24.0, True, True), (20.0, True, False), (19.9, False, False)):
            found = self.judged(1_000_000, {"testpmd-io": 50.0, "weft": weft}, [row])
            self.assertEqual((found["met_at_least"], found["met_aim"]), (at_least, aim), weft)
        # Without that row nothing is known, and nothing is said to be reached.
        self.assertNotIn("met_at_least", self.judged(1_000_000, {"testpmd-io": 50.0, "weft": 25.0}))

    def test_only_the_shortest_frames_are_judged(self):
        found = self.judged(1000, {"testpmd-io": 50.0, "ovs-dpdk": 20.0, "weft": 21.0}, frame="imix")
        self.assertEqual(set(found), {"ratio"})

    def test_who_forwards_less_than_came_in_has_no_rate(self):
        subject = mock.Mock()
        bench = mock.Mock(subjects={"weft": subject}, cycles=lambda mpps: 1 / mpps)
        for packets, counts in ((0, False), (998_000, False), (999_500, True)):
            subject.measure.return_value = {"packets": packets, "received": 1_000_000, "seconds": 1.0}
            with contextlib.nullcontext() if counts else self.assertRaises(LabError):
                sample = core.take(bench, core.Cell("bridge", 1, "64"), "weft", None, 1, None)
        self.assertEqual(sample["mpps"], 0.9995)

    def test_who_takes_part(self):
        for case, flows, subjects in (
            ("bridge", 1000, core.SUBJECTS),
            ("encap", 1000, ("testpmd-io", "ovs-dpdk", "weft")),
            ("route", 1_000_000, ("testpmd-io", "weft")),
        ):
            self.assertEqual(core.Cell(case, flows, "64").subjects(core.SUBJECTS), list(subjects))


class Latency(unittest.TestCase):
    def test_a_row_for_each_load_with_what_all_rounds_lost(self):
        at = lambda us, lost: {"mpps": 1.0, "lost": lost, "given_up": 1, "offered_share": 1.0 if us < 50 else 0.98, "own_pause_us": 1.0, "p50_us": us, "p99_us": us * 2, "p999_us": us * 3, "max_us": us * 4}
        taken = [{"zero_loss_mpps": n, "flood_mpps": 2 * n} | {load: at(us, lost) for load in latency.LOADS}
                 for n, us, lost in ((2.0, 10.0, 0), (9.0, 50.0, 4), (3.0, 30.0, 3))]  # fmt: skip
        found = list(latency.rows_of({WEFT: taken}, 1000, "64"))
        self.assertEqual([row["load_pct"] for row in found], [10, 50, 90])
        row = found[1]
        self.assertEqual((row["p50_us"], row["p99_us"], row["max_us"], row["zero_loss_mpps"]), (30.0, 60.0, 120.0, 3.0))
        self.assertEqual((row["lost"], row["rounds"]["lost"], row["rounds"]["p50_us"]), (7, [0, 4, 3], [10.0, 50.0, 30.0]))
        self.assertEqual((row["given_up"], row["offered_share"]), (3, 0.98))
        self.assertIn("p99.9", latency.table(found))
        self.assertIn("TOO FEW", latency.table(found))

    def test_a_subject_that_fails_is_left_out_alone(self):
        def take(_bench, subject, flows, _frame):
            if (subject, flows) == ("ovs-dpdk", 1):
                raise LabError("a hiccup")
            at = dict.fromkeys(("mpps", "lost", "given_up", "offered_share", "own_pause_us", *latency.TIMES), 1.0)
            return {"zero_loss_mpps": 4.0, "flood_mpps": 5.0} | {load: at for load in latency.LOADS}

        with mock.patch.object(latency, "measure_one", take), mock.patch.object(latency.vhost, "Bench") as bench, \
                mock.patch.object(rig.Rows, "head"), contextlib.redirect_stderr(io.StringIO()) as err:  # fmt: skip
            bench.return_value.huge = True
            written = rig.Rows(io.StringIO(), "latency")
            failed = latency.measure(None, latency.arguments(["--flows", "1,2", "--frame", "64"]), written)
        self.assertEqual(failed, ["bridge, 1 flow, 64, ovs-dpdk"])
        self.assertEqual([row["subject"] for row in written.rows if row["load_pct"] == 50], ["testpmd-io", "weft", *latency.SUBJECTS])
        self.assertIn("[15/15]", err.getvalue())


class Reconf(unittest.TestCase):
    def row(self, case, rates, lost=0, snapshots=95.0):
        names = ("gap_us", "longest_gap_ms", "own_pause_ms", "max_us", "snapshots_a_second", "offered")
        taken = [{"mpps": rate, "lost": lost, "drops": {"fdb_miss": 2}, "snapshots_asked": 100.0, "static_mpps": 4.0} | dict.fromkeys(names, 1.0)
                 | {"snapshots_a_second": snapshots} for rate in rates]  # fmt: skip
        return reconf.row_of(case, taken, 5e6)

    def test_one_lost_packet_is_too_many(self):
        row = self.row("mtu", [2.0, 2.0, 2.0], lost=1)
        self.assertEqual((row["lost"], row["drops"], row["met_at_least"]), (3, {"fdb_miss": 6}, False))
        self.assertTrue(self.row("mtu", [2.0])["met_at_least"])
        self.assertNotIn("rate_ratio", row)

    def test_the_rate_is_compared_with_that_of_unchanged_tables(self):
        for rates, ratio, met in (((3.6, 9.0, 1.0), 0.9, True), ((3.5,), 0.875, False)):
            row = self.row("snapshots", rates)
            self.assertEqual((row["static_mpps"], row["rate_ratio"], row["met_at_least"]), (4.0, ratio, met))
            self.assertIn(f"{ratio:.2f}", reconf.table([row]))
        self.assertFalse(self.row("snapshots", [4.0], lost=1)["met_at_least"])

    def test_too_few_snapshots_reach_nothing(self):
        for case in reconf.CONTINUOUS:
            row = self.row(case, [4.0], snapshots=94.9)
            self.assertEqual((row["enough_snapshots"], row["met_at_least"]), (False, False))
            self.assertIn("too few", reconf.table([row]))

    def test_the_generators_own_lack_is_shown(self):
        row = self.row("mtu", [2.0]) | {"offered": 0.87}
        self.assertIn("87 %", reconf.table([row]))

    def measured(self, broken):
        """A run of three rounds in which a case fails in the second: what failed, and the cases that have rows."""
        def take(_bench, case, _rate, rounds={}):
            rounds[case] = rounds.get(case, 0) + 1
            if (case, rounds[case]) == (broken, 2):
                raise LabError("a hiccup")
            names = ("lost", "gap_us", "mpps", "own_pause_ms", "snapshots_a_second", "snapshots_asked", "longest_gap_ms", "static_mpps")
            return dict.fromkeys(names, 1.0) | {"drops": {}}

        out = io.StringIO()
        with mock.patch.multiple(reconf, measure_round=take, Bench=mock.MagicMock()), contextlib.redirect_stderr(io.StringIO()), \
                mock.patch.object(rig.Rows, "head"):  # fmt: skip
            reconf.Bench.return_value.huge = True
            written = rig.Rows(out, "reconf")
            failed = reconf.measure(None, reconf.arguments(["--rate-mpps", "1"]), written)
        return failed, [row["case"] for row in written.rows]

    def test_a_case_that_fails_takes_nothing_with_it(self):
        for broken in ("static", "mtu"):
            self.assertEqual(self.measured(broken), ([broken], [case for case in reconf.NAMES if case != broken]))

    def test_what_means_nothing_is_refused(self):
        for words, said in (("everything", "no such case"), ("--nodes 1", "2 to 4000")):
            with self.subTest(words), contextlib.redirect_stderr(io.StringIO()) as err, self.assertRaises(SystemExit) as ended:
                reconf.arguments(words.split())
            self.assertEqual(ended.exception.code, 2)
            self.assertIn(said, err.getvalue())


class Frames(unittest.TestCase):
    """The check of bytes finds what is wrong."""

    PLAN = captures.Plan({
        "vni": 1, "vxlan_port": 8472, "gateway": {"mac": "0a:58:0a:f4:00:01"},
        "local_vtep": {"mac": "02:0f:00:00:00:00", "ip": "172.16.0.1", "uplink_mac": "02:0a:00:00:00:00"},
        "others": [{"mac": "02:00:00:00:00:01", "ip": "10.244.0.3"}],
        "vteps": [{"mac": "02:0f:00:00:00:01", "ip": "172.16.0.2", "uplink_mac": "02:0a:00:00:00:01", "subnets": ["10.244.1.0/24"]}],
    })  # fmt: skip

    def frame(self, dst="10.244.0.3"):
        return captures.udp_frame("02:00:00:00:00:00", "0a:58:0a:f4:00:01", "10.244.0.2", dst, (1024, 5000), 60)

    def changed(self, frame, at):
        return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]

    def test_a_routed_frame(self):
        out = self.PLAN.comes_out("route", self.frame())
        self.assertEqual(out[:12].hex(":"), "02:00:00:00:00:01:0a:58:0a:f4:00:01")
        self.assertEqual((out[22], captures.checksum(out[14:34])), (63, 0))
        captures.compare("it", [out], [out])
        for at in range(len(out)):
            with self.assertRaises(captures.WrongBytes, msg=at):
                captures.compare("it", [out], [self.changed(out, at)])
        for got in ([], [out, out]):
            with self.assertRaises(captures.WrongBytes):
                captures.compare("it", [out], got)

    def test_a_tunnel_packet(self):
        out = self.PLAN.comes_out("encap", self.frame("10.244.1.5"))
        free = out[:18] + b"\x12\x34\x40" + out[21:34] + b"\xc0\x01" + out[36:]
        free = free[:14] + captures.ipv4(free[14:34]) + free[34:]
        wanted = captures.any_tunnel(out)
        self.assertEqual(captures.any_tunnel(free), wanted, "source port, identification and DF are the sender's")
        for at in (*range(18), *range(22, 34), *range(36, len(free))):
            try:
                same = captures.any_tunnel(self.changed(free, at)) == wanted
            except captures.WrongBytes:
                same = False
            self.assertFalse(same, at)

    def test_a_decapsulated_packet_is_the_routed_inner_one(self):
        inner = self.frame()
        self.assertEqual(self.PLAN.comes_out("decap", bytes(50) + inner), self.PLAN.comes_out("route", inner))


class Scale(unittest.TestCase):
    def line(self, name, **costs):
        """The rows of one way, by what a packet costs at each size."""
        points = [{"way": "bridge", "size": size, "cycles_per_packet": cost, "mpps": 1000 / cost, "rounds": [cost]}
                  for size, cost in costs.items()]  # fmt: skip
        return list(scale.rows_of(scale.CASE[name], points))

    def test_a_table_is_flat_or_not(self):
        for dearest, at_least, aim in ((104, True, True), (106, True, False), (121, False, False)):
            *others, last = self.line("fdb", few=102, some=100, many=dearest)
            self.assertEqual((last["met_at_least"], last["met_aim"]), (at_least, aim), dearest)
            self.assertAlmostEqual(last["slope"], dearest / 100 - 1)
            self.assertTrue(all("slope" not in row for row in others))

    def test_the_cost_without_the_floor_is_shown_and_not_judged(self):
        points = [{"way": "bridge", "size": size, "cycles_per_packet": cost, "mpps": 1.0, "floor": 50.0, "rounds": [cost]}
                  for size, cost in ((1, 100.0), (2, 115.0))]  # fmt: skip
        *_, last = scale.rows_of(scale.CASE["fdb"], points)
        self.assertAlmostEqual(last["slope"], 0.15)
        self.assertAlmostEqual(last["slope_without_floor"], 0.3)
        self.assertTrue(last["met_at_least"])
        self.assertIn("+30.0%", scale.table([row | {"case": "fdb"} for row in scale.rows_of(scale.CASE["fdb"], points)]))

    def test_two_workers_by_one(self):
        points = {1: 100, 2: 54}
        row = scale.CASE["workers"].judged({size: {"mpps": 1000 / cost} for size, cost in points.items()})
        self.assertAlmostEqual(row["ratio"], 100 / 54)
        self.assertEqual((row["met_at_least"], row["met_aim"]), (True, False))

    def test_a_port_scan_by_a_thousand_flows(self):
        for cost, met in ((285, True), (287, False)):
            row = scale.CASE["flood"].judged({1000: {"mpps": 10.0}, "new": {"mpps": 1000 / cost}})
            self.assertEqual((row["met_at_least"], "aim" in row), (met, False))


class Subjects(unittest.TestCase):
    """One that fails takes only its own figures with it, in check and in measurement."""

    def test_core(self):
        bench, failed = mock.MagicMock(), {"ovs-dpdk"}
        bench.return_value.huge, bench.return_value.tsc_hz = True, 2e9
        bench.return_value.cycles = lambda mpps: 2e3 / mpps

        def check(_case, subject):
            if subject == "testpmd-mac":
                raise LabError("other bytes")
            return 1000

        def take(_bench, _cell, subject, *_rest):
            if subject in failed:
                raise LabError("forwarded nothing")
            return {"mpps": 4.0, "cycles_per_packet": 500.0, "packets": 10, "received": 10, "seconds": 1.0}

        bench.return_value.check, bench.return_value.checked = check, {}
        options = core.arguments(["bridge", "--flows", "1", "--frame", "64"])
        bench.return_value.options = options
        with mock.patch.multiple(core, Bench=bench, take=take), mock.patch.object(core.captures, "read", lambda _: []), \
                mock.patch.object(rig.Rows, "head"), contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
            written = rig.Rows(io.StringIO(), "core")
            left_out = core.measure(None, options, written)
        self.assertEqual(left_out, [f"bridge, 1 flow, 64, {subject}" for subject in ("testpmd-mac", "ovs-dpdk")])
        self.assertEqual([row["subject"] for row in written.rows], ["testpmd-io", "weft"])
        self.assertEqual(written.rows[1]["ratio"], {"testpmd-io": 1.0})
        self.assertNotIn("met_at_least", written.rows[1])

    def test_vhost(self):
        bench = mock.MagicMock()
        bench.return_value.huge, bench.return_value.tsc_hz, bench.return_value.checked = True, 2e9, {}
        bench.return_value.check.side_effect = lambda subject: 400

        def take(subject, _paths, _held):
            if subject == "testpmd-io":
                raise LabError("forwarded nothing")
            return {"mpps": 4.0, "cycles_per_packet": 500.0, "packets": 10, "offered": 10, "seconds": 1.0}

        bench.return_value.measure = take
        options = vhost.arguments(["--flows", "10"])
        bench.return_value.options = options
        with mock.patch.object(vhost, "Bench", bench), mock.patch.object(rig.Rows, "head"), \
                contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
            written = rig.Rows(io.StringIO(), "vhost")
            left_out = vhost.measure(None, options, written)
        self.assertEqual((left_out, [row["subject"] for row in written.rows]), (["bridge, 10 flows each way, testpmd-io"], ["ovs-dpdk", "weft"]))


class Require(unittest.TestCase):
    def code(self, *rows):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            return rig.required([{"case": "bridge"} | row for row in rows]), err.getvalue()

    def test_only_what_is_decided_passes(self):
        met = {"at_least": 1.5, "met_at_least": True}
        self.assertEqual(self.code(met, {"mpps": 1.0}), (0, ""))
        for others in ([], [{"mpps": 1.0}], [met, met | {"met_at_least": False}], [met, {"at_least": 1.5}]):
            self.assertEqual(self.code(*others)[0], 3, others)
        self.assertIn("not decided, for want of what it must be held against: bridge", self.code(met, {"at_least": 1.5})[1])

    def test_without_ovs_core_and_vhost_have_no_verdict(self):
        medians = {WEFT: {"mpps": 4.0}, "testpmd-io": {"mpps": 5.0}}
        for found in (core.judged(core.Cell("bridge", 1000, "64"), medians, []), vhost.judged(medians)):
            self.assertTrue("at_least" in found and "met_at_least" not in found and "met_aim" in found, found)


class Report(unittest.TestCase):
    """What the rigs write is what weft-report reads."""

    def report(self, *rows):
        """The report of rows of any rigs."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            call(BIN / "weft-report", file, "--out", f"{folder}/RESULTS.md", "--plots", f"{folder}/plots")
            return (Path(folder) / "RESULTS.md").read_text(), {path.name for path in (Path(folder) / "plots").iterdir()}

    def test_heads(self):
        out = io.StringIO()
        rig.Rows(out, "scale").head(scale.arguments(["--quick"]))
        self.assertEqual(json.loads(out.getvalue())["changed"], {"quick": True})
        row = {"rig": "scale", **Scale().line("flows", **{"1": 10})[0], "size": 1}
        text, _ = self.report(json.loads(out.getvalue()), row)
        self.assertIn("**A quick run** (scale)", text)
        self.assertIn(machine.facts()["kernel"], text)

    def test_latency(self):
        at = {"mpps": 1.0, "lost": 0, "given_up": 0, "offered_share": 1.0, "own_pause_us": 5.0, "p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "max_us": 4.0}
        sample = {"zero_loss_mpps": 4.0, "flood_mpps": 5.0} | {load: at for load in latency.LOADS}
        rows = latency.rows_of({subject: [sample] * 3 for subject in latency.SUBJECTS}, 1000, "64")
        text, plots = self.report(*({"rig": "latency"} | row for row in rows))
        self.assertIn("## latency", text)
        self.assertEqual(plots, {"latency-64-1000.svg", "latency-64-1000.png"})

    def test_reconf(self):
        sample = dict.fromkeys(
            ("load_mpps", "p50_us", "p99_us", "max_us", "mpps", "static_mpps", "offered", "gap_us", "longest_gap_ms", "own_pause_ms"), 1.0
        )
        sample |= {"snapshots_asked": 100.0, "drops": {}} | dict.fromkeys(("lost", "duplicated", "reordered", "snapshots", "snapshots_a_second", "given_up"), 0)
        rows = [{"rig": "reconf"} | reconf.row_of(case, [sample] * 3, 1e6) for case in reconf.NAMES]
        text, plots = self.report(*rows)
        self.assertIn("| reconf, packets lost | 5 | ≤ 0 packets | 0 packets | yes |", text)
        self.assertEqual(plots, {"reconf.svg", "reconf.png"})

    def test_control(self):
        added, lost = {"value": 1.9, "alone_ms": 50.5}, {"value": 0.0, "outage_s": 60}
        rows = [control.row_of(case, [sample] * 3) for case, sample in (("cni-add", added), ("store-loss", lost))]
        text, _ = self.report(*({"rig": "control"} | row for row in rows))
        self.assertIn("| control, cni-add-alone | 1 | ≤ 50 ms | 50.5 ms | **no** |", text)
        self.assertIn("gone for 60 s", text)

    def test_pods(self):
        sample = [common(p50_us=100, p99_us=200, loss=0.0)]
        text, _ = self.report(*({"rig": "pods"} | row for row in rows("rr-udp", sample, sample)))
        self.assertIn("| rr-udp | p50 µs / p99 µs | 100 (1 round) / 200 (1 round) |", text)


class Every(unittest.TestCase):
    def all_quick(self, *broken):
        """`scripts/bench all --quick` with rigs that write what they once wrote, but for those that are broken: the exit code, what
        was said, and the report."""
        rows_of = lambda name: [line for line in EXAMPLE.read_text().splitlines() if json.loads(line)["rig"] == name]

        def instead(words):
            if Path(words[0]).name == "weft-report":
                call(*words)
                return 0
            name, path = words[4], Path(words[-1])
            if name not in broken:
                path.write_text("\n".join(rows_of(name)))
            return int(name in broken)

        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as err, \
                mock.patch.object(every, "run", instead):  # fmt: skip
            stale = Path(folder) / "bench" / "quick" / "core.json"
            stale.parent.mkdir(parents=True)
            stale.write_text("of an earlier run")
            code = every.main(Path(folder), ["--quick"])
            report = stale.with_name("RESULTS.md")
            return code, err.getvalue(), report.read_text() if report.exists() else None

    def test_a_report_of_all(self):
        code, said, report = self.all_quick()
        self.assertEqual(code, 0, said)
        self.assertIn("Made by `scripts/bench all --quick`", report)
        self.assertIn("Not measured in this run: pods.", report)

    def test_what_fails_takes_nothing_with_it(self):
        code, said, report = self.all_quick("core", "vhost")
        self.assertEqual(code, 1)
        self.assertIn("not whole: core, vhost", said)
        self.assertIn("Not measured in this run: core, vhost, pods.", report)

    def test_a_signal_reaches_the_rig_and_ends_all(self):
        with self.assertRaises(every.Stopped):
            every.run(["sh", "-c", "kill -TERM $PPID; exec sleep 60"])

    def test_without_a_row_there_is_no_report(self):
        code, said, report = self.all_quick(*every.RIGS)
        self.assertEqual((code, report), (1, None))


class Leftovers(unittest.TestCase):
    def test_services_are_held_back_only_while_packages_are_installed(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(machine, "POLICY", Path(folder) / "policy"):
            policy = machine.POLICY
            with contextlib.suppress(KeyError), machine.no_services():
                self.assertEqual(call(policy, "openvswitch-switch", "start", check=False).returncode, 101)
                raise KeyError
            self.assertFalse(policy.exists())
            policy.write_text(machine.NO_SERVICES)  # of a run that was killed
            with machine.no_services():
                pass
            self.assertFalse(policy.exists())
            for code, held_back in ((101, True), (0, False)):
                policy.write_text(f"#!/bin/sh\nexit {code}\n")
                policy.chmod(0o755)
                with contextlib.nullcontext() if held_back else self.assertRaises(LabError):
                    with machine.no_services():
                        pass
                self.assertTrue(policy.exists(), "somebody else's policy stays")

    def test_huge_pages_are_given_back_but_none_of_others(self):
        for before, asked, now, left in ((0, 100, 100, 0), (50, 100, 150, 50), (50, 100, 80, 50), (50, 100, 50, 50), (50, 100, 20, 20)):
            with tempfile.TemporaryDirectory() as folder:
                pages, note = Path(folder) / "pages", Path(folder) / "note"
                pages.write_text(str(now))
                note.write_text(f"{before} {asked}")
                with mock.patch.object(run, "HUGE_PAGES", pages):
                    run.give_back_huge_pages(note)
                self.assertEqual((int(pages.read_text()), note.exists()), (left, False))


def processes(word):
    """Who runs with this word among its arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes() and run.is_running(path.parent.name):
                found.append(int(path.parent.name))
    return found


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
                # A LabError if it does not know one of them.
                call(BIN / "weft-report", path, "--out", f"{folder}/RESULTS.md", "--plots", f"{folder}/plots")
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

    def test_core(self):
        pages = run.HUGE_PAGES.read_text()
        code, said, written = self.run_bench("core", "bridge", "--quick", "--subjects", "testpmd-io,weft", "--flows", "100")
        self.assertEqual(code, 0, said)
        self.assertEqual([row["subject"] for row in written], ["testpmd-io", "weft"], said)
        for row in written:
            self.assertGreater(row["mpps"], 0, row)
            self.assertEqual((row["case"], row["flows"], row["frame"], row["frames_checked"]), ("bridge", 100, "64", 1000))
            self.assertGreaterEqual(row["delivered"], core.LEAST_FORWARDED * row["received"])
        self.assertIn("testpmd-io", written[1]["ratio"])
        self.assertEqual(run.HUGE_PAGES.read_text(), pages)
        self.assertFalse((run.RUN_DIR / f"{run.PREFIX}{os.getpid()}").exists())

    def test_vhost(self):
        code, said, written = self.run_bench("vhost", "--subjects", "weft", "--flows", "10")
        self.assertEqual(code, 0, said)
        self.assertEqual([(row["subject"], row["flows"], row["frames_checked"]) for row in written], [("weft", 10, 400)], said)
        self.assertGreater(written[0]["mpps"], 0)

    def test_control(self):
        code, said, written = self.run_bench("control", "--quick", "--nodes", "60")
        self.assertEqual(code, 0, said)
        self.assertEqual([row["case"] for row in written], list(control.NAMES), said)
        self.assertTrue(all(row["value"] > 0 for row in written[:4]), said)
        self.assertEqual((written[1]["changes"], written[1]["macs"], written[2]["pods"]), (30, 15, 25))
        self.assertGreater(written[3]["alone_ms"], 0)
        self.assertEqual((written[4]["survived"], written[4]["outage_s"]), ("slow compacted restored", 1))
        self.assertGreater(written[4]["sent"], 1000)
        self.assertEqual(written[4]["value"], 0, said)

    def test_control_waits_for_the_new_mac_address(self):
        lease = control.lease
        with mock.patch.object(control, "lease", lambda index, _turn=0: lease(index)), mock.patch.object(control, "CHANGE_SECONDS", 5):
            code, said, written = self.run_bench("control", "--quick", "--nodes", "20", "change")
        self.assertEqual((code, written), (1, []), said)
        # The first one's, or the second's where weftd has the first subnet itself.
        told = [f"a node is not reached as it is now: {lease(index)[0]}" for index in range(2)]
        self.assertTrue(any(text in said for text in told), said)

    def started(self, folder):
        """A run of its own process, which measures for long; and the name that all that it makes carries."""
        words = ("core", "bridge", "--subjects", "testpmd-io", "--flows", "1", "--frame", "64", "--seconds", "60")
        process = subprocess.Popen([sys.executable, "-B", BENCH, folder, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        name = f"{run.PREFIX}{process.pid}"
        # Only what is measured repeats its frames: a check before it does not.
        run.wait_for("the subject", lambda: processes(f"{name}/frames.pcap,infinite_rx"), timeout=60)
        return process, name

    def test_a_signal_ends_all_of_it(self):
        pages = run.HUGE_PAGES.read_text()
        with tempfile.TemporaryDirectory() as folder:
            process, name = self.started(folder)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(timeout=30), 1)
        self.assertEqual((processes(name), (run.RUN_DIR / name).exists(), run.namespaces(name)), ([], False, []))
        self.assertEqual(run.HUGE_PAGES.read_text(), pages)

    def test_what_a_killed_run_left_is_removed(self):
        pages = run.HUGE_PAGES.read_text()
        with tempfile.TemporaryDirectory() as folder:
            process, name = self.started(folder)
            process.kill()
            process.wait()
        self.assertNotEqual(processes(name), [])
        self.assertIn(name, run.remove_leftovers(kept=False))
        self.assertEqual((processes(name), (run.RUN_DIR / name).exists(), run.namespaces(name)), ([], False, []))
        self.assertEqual(run.HUGE_PAGES.read_text(), pages)

    def test_reconf(self):
        # At a rate that any machine carries: what is looked at is that traffic flows and each change comes into force.
        code, said, written = self.run_bench("reconf", "--quick", "--seconds", "5", "--rate-mpps", "0.02")
        self.assertEqual(code, 0, said)
        self.assertEqual([row["case"] for row in written], list(reconf.NAMES), said)
        for row in written:
            self.assertGreater(row["mpps"], 0, row)
            self.assertGreaterEqual(row["snapshots"], 0 if row["case"] == "static" else 1, row)
        self.assertEqual(list(run.RUN_DIR.glob("weft-demo-*")), [])

    def test_core_finds_a_switch_that_writes_something_else(self):
        with mock.patch.object(captures.Plan, "comes_out", lambda _plan, _case, frame: frame[:-1] + b"!"):
            code, said, written = self.run_bench("core", "bridge", "--subjects", "weft", "--flows", "1")
        self.assertEqual((code, written), (1, []), said)
        self.assertIn("1000 are others", said)

    def test_scale(self):
        code, said, written = self.run_bench("scale", "fdb", "flood", "scan", "macs")
        self.assertEqual(code, 0, said)
        self.assertEqual([row["size"] for row in written if row["case"] == "fdb"], [10, 100, 1000, 10_000, 100_000], said)
        self.assertEqual({row["way"] for row in written if row["case"] == "flood"}, {"bridge", "route", "encap", "decap"})
        self.assertEqual(sum("met_at_least" in row for row in written), 7)
        self.assertEqual({row["size"] for row in written if row["case"] == "scan"}, {1000, "new"})
        for row in written:
            self.assertEqual(len(row["rounds"]), scale.IN_MEMORY_ROUNDS)

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
