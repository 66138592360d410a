"""`scripts/bench latency`: how long packets take from one vhost-user port to another, by weft, OVS-DPDK and testpmd.

    core 0  the switch: bridges between its two ports
    core 1  weft-pktgen: sends at one port, receives at the other, and knows each packet again

First the highest rate without loss is looked for (RFC 2544), then packets are timed at shares of it: what a subject takes at
half of what it can, not at half of what another can.
"""

from gauges import busy_pct, usable_cores
from pktgen import PROGRAM, pktgen
from rig import Progress, above_zero, columns, in_turn, middle, parsed, parser, say, several, spread, warn_if_busy
from rigs import vhost
from rigs.core import IO, OVS, WEFT, word_of
from run import LabError

WHAT = "time from port to port at shares of the rate without loss, against OVS-DPDK and testpmd"

SUBJECTS = (IO, OVS, WEFT)
FRAMES, LOADS = ("64", "imix"), (10, 50, 90)
# From a connected guest to one whose rings are polled, and a little more.
WARM_UP_SECONDS = 1.5
TRIES = 3
RESOLUTION_PCT = 2
TIMES = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p999", "max_us": "max"}


def arguments(words=None):
    made = parser("latency", f"Measures {WHAT}.", ["bridge"], "case: bridge, by MAC address", seconds=2)
    made.add_argument("--flows", type=several(above_zero), metavar="N,…", default=[1000], help="how many flows (default: 1000)")
    made.add_argument("--frame", type=word_of(FRAMES), metavar="F,…", help=f"sizes of frames, {' and '.join(FRAMES)} (default: both)")
    made.add_argument("--subjects", type=word_of(SUBJECTS), default=SUBJECTS, metavar="S,…",
                      help=f"who is measured (default: {','.join(SUBJECTS)})")  # fmt: skip
    made.add_argument("--acceptable-loss", type=float, default=0.0, metavar="PERCENT",
                      help="loss that counts as none in the search, for machines with other work to do (default: 0)")  # fmt: skip
    made.add_argument("--ovs", action="append", default=[], metavar="KEY=VALUE",
                      help="a setting of Open vSwitch (other_config), as in smc-enable=true; by default it has its own")  # fmt: skip
    options = parsed(made, words, ["bridge"])
    options.flows = sorted(set(options.flows))
    options.frame = options.frame or (["64"] if options.quick else FRAMES)
    options.subjects = [subject for subject in SUBJECTS if subject in options.subjects]
    if not all("=" in word for word in options.ovs):
        made.error("--ovs takes KEY=VALUE")
    return options


def prepare(options):
    vhost.prepare_peers(options, "weftd", PROGRAM)


def addresses():
    """Who sends to whom: a pod of the vhost rig to the other."""
    (src_mac, src), (dst_mac, dst) = vhost.PODS
    return ["--src-mac", src_mac, "--src-ip", src, "--dst-mac", dst_mac, "--dst-ip", dst]


def measure_one(bench, subject, flows, frame):
    """The rate without loss, and the times at shares of it."""
    options = bench.options
    words = [
        "throughput", *addresses(), "--flows", flows, "--frame", frame, "--seconds", options.seconds, "--warm-up", WARM_UP_SECONDS,
        "--tries", TRIES, "--resolution", RESOLUTION_PCT, "--acceptable-loss", options.acceptable_loss, "--settle", 1, "--at", ",".join(map(str, LOADS)),
    ]  # fmt: skip
    with bench.switches[subject](), pktgen(bench.run, bench.netns, bench.guest_core, bench.sockets, bench.huge, *words) as running:
        answer = running.answer(timeout=120 + 60 * options.seconds)
    if answer["zero_loss_pps"] is None:
        raise LabError(f"{subject} lost packets at every rate")
    found = {"zero_loss_mpps": answer["zero_loss_pps"] / 1e6, "flood_mpps": answer["flood"]["received_pps"] / 1e6}
    for trial in answer["at"]:
        if trial["corrupted"] or not trial["latency_us"]:
            raise LabError(f"{subject}, {trial['percent']:g} %: {trial['corrupted']} corrupted of {trial['received']} packets")
        found[int(trial["percent"])] = {
            "mpps": trial["sent_pps"] / 1e6, "lost": trial["lost"], "own_pause_us": 1e3 * trial["own_pause_ms"],
            **{field: trial["latency_us"][name] for field, name in TIMES.items()},
        }  # fmt: skip
    return found


def measure(run, options, rows):
    bench = vhost.Bench(run, options)
    rows.head(options)
    progress, failed = Progress(len(options.flows) * len(options.frame) * len(options.subjects) * options.rounds), []
    say(f"the switch on core {bench.core}, {PROGRAM} on core {bench.guest_core}")
    bench.reserve(0)
    for flows in options.flows:
        for frame in options.frame:
            name = f"bridge, {flows:,} flow{'s' if flows > 1 else ''}, {frame}"
            busy = busy_pct(usable_cores(), 0.5)
            warn_if_busy(busy)

            def one(subject, _number):
                sample = measure_one(bench, subject, flows, frame)
                half = sample[LOADS[1]]
                progress.step(f"{name}: {subject} {sample['zero_loss_mpps']:.2f} Mpps without loss; at half of it p50 {half['p50_us']:.1f}"
                              f" and p99 {half['p99_us']:.1f} µs")  # fmt: skip
                return sample

            try:
                samples = in_turn(options.subjects, options.rounds, one)
            except LabError as e:
                say(f"FAILED: {name}: {e}")
                failed.append(name)
                continue
            for row in rows_of(samples, flows, frame):
                rows.add(row | {"huge_pages": bench.huge, "background_pct": round(busy, 1)})
    return failed


def rows_of(samples, flows, frame):
    for subject, taken in samples.items():
        found = middle(taken)
        for load in LOADS:
            at = [sample[load] for sample in taken]
            figures = ("mpps", *TIMES)
            yield {
                "case": "bridge", "flows": flows, "frame": frame, "subject": subject, "load_pct": load,
                "zero_loss_mpps": found["zero_loss_mpps"], "flood_mpps": found["flood_mpps"],
                **{field: found[load][field] for field in (*figures, "own_pause_us")},
                "lost": sum(sample["lost"] for sample in at),
                "rounds": {field: [sample[field] for sample in at] for field in figures} | {
                    "zero_loss_mpps": [sample["zero_loss_mpps"] for sample in taken], "lost": [sample["lost"] for sample in at]},
                "spread": spread([sample["p50_us"] for sample in at]),
            }  # fmt: skip


def table(rows):
    """The results for people."""
    lines = [("frame", "flows", "load", "subject", "Mpps", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "lost")]
    order = {subject: number for number, subject in enumerate(SUBJECTS)}
    for row in sorted(rows, key=lambda row: (row["frame"], row["flows"], row["load_pct"], order[row["subject"]])):
        times = [f"{row[field]:.1f}" for field in TIMES]
        lines.append((row["frame"], f"{row['flows']:,}", f"{row['load_pct']} %", row["subject"], f"{row['mpps']:.3f}", *times, f"{row['lost']}"))
    return "From port to port, at shares of each subject's own rate without loss\n" + columns(lines)
