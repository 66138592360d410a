//! Network namespaces that vanish with the test, and the kernel's tools in them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::wait_for;

/// A network namespace.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("weft-t-{}-{number}-{role}", std::process::id()) };
        namespace.make();
        namespace
    }

    /// One whose kernel sends nothing by itself: no router solicitations, no multicast reports, no duplicate address
    /// detection. It goes on asking for neighbours and answering.
    pub(crate) fn quiet(role: &str) -> Self {
        let namespace = Self::new(role);
        namespace.nft(
            "table inet quiet {
                chain output {
                    type filter hook output priority 0
                    ip6 saddr :: drop
                    meta l4proto igmp drop
                    icmpv6 type { nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } drop
                }
            }",
        );
        namespace
    }

    /// One whose kernel neither says nor hears anything: only a [`super::Wire`] does.
    pub(crate) fn mute(role: &str) -> Self {
        let namespace = Self::new(role);
        for family in ["inet", "arp"] {
            namespace.nft(&format!(
                "table {family} mute {{
                    chain output {{ type filter hook output priority 0; policy drop; }}
                    chain input {{ type filter hook input priority 0; policy drop; }}
                }}"
            ));
        }
        namespace
    }

    /// Adds these rules.
    pub(crate) fn nft(&self, rules: &str) {
        let mut command = self.command("nft");
        let output = command.arg(rules).output().expect("iproute2 is installed");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nft failed in {} (nftables is needed): {complaint}", self.name);
    }

    /// Makes it, with a loopback interface that is up.
    pub(crate) fn make(&self) {
        run(&["netns", "add", &self.name]);
        self.ip("link set lo up");
    }

    /// Deletes it; what is in it goes once nobody holds it any more.
    pub(crate) fn delete(&self) {
        run(&["netns", "del", &self.name]);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command to be run in here.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command in here to its end.
    pub(crate) fn exec(&self, words: &str) -> Output {
        let mut words = words.split_whitespace();
        let mut command = self.command(words.next().expect("a program"));
        command.args(words).output().expect("iproute2 is installed")
    }

    /// The same; it must have success.
    pub(crate) fn must(&self, words: &str) -> String {
        let output = self.exec(words);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{words} failed in {}: {out}{err}", self.name);
        out
    }

    /// Starts a stream of echo requests, one each 10 ms, once the neighbours know each other, if they can: what waits for that may be
    /// overtaken.
    pub(crate) fn stream(&self, address: &str) -> Stream {
        self.reaches(address);
        let said = tempfile::tempfile().expect("a temporary file");
        let mut ping = self.command("ping");
        ping.args(["-n", "-i", "0.01", "-W", "2", address]).stderr(Stdio::null());
        ping.stdout(said.try_clone().expect("a second descriptor"));
        Stream { ping: ping.spawn().expect("iproute2 is installed"), said }
    }

    /// Runs `ip` with these words, in here.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(words.split_whitespace());
        run(&all)
    }

    /// Runs `ip` once with a line for each of its commands: a process each would take most of a test's time.
    pub(crate) fn ip_batch(&self, lines: &[&str]) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut ip = command.stderr(Stdio::piped()).spawn().expect("iproute2 is installed");
        let mut stdin = ip.stdin.take().expect("a pipe");
        stdin.write_all(lines.join("\n").as_bytes()).expect("ip reads them");
        drop(stdin);
        let output = ip.wait_with_output().expect("its end");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{lines:?} failed in {} (root is needed): {complaint}", self.name);
    }

    /// Runs `ip` with JSON as the answer.
    pub(crate) fn json(&self, words: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j {words}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        serde_json::from_str(&text).expect("ip -j prints a list")
    }

    /// The names of the interfaces but for `lo`.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let names = self
            .json("link show")
            .into_iter()
            .map(|link| link["ifname"].as_str().expect("a name").to_owned());
        names.filter(|name| name != "lo").collect()
    }

    pub(crate) fn has_interface(&self, name: &str) -> bool {
        self.interfaces().iter().any(|there| there == name)
    }

    /// What must stay as it is while weftd is away: number, MAC address, global addresses.
    pub(crate) fn identity(&self, interface: &str) -> (u64, String, Vec<String>) {
        let link = self.json(&format!("addr show dev {interface}")).remove(0);
        let addresses = link["addr_info"].as_array().expect("addresses").iter();
        let global = addresses.filter(|address| address["scope"] == "global");
        let mut global: Vec<_> =
            global.map(|address| format!("{}/{}", address["local"], address["prefixlen"])).collect();
        global.sort();
        (link["ifindex"].as_u64().expect("a number"), link["address"].to_string(), global)
    }

    /// True if each of the first five echo requests is answered, however late and in whatever order: a kernel that learns of a
    /// neighbour sends what comes just then before what has waited. So `ping` goes on until they are, or for 20 s; not so
    /// fast that the kernel has no more room for what waits: for want of a link-local address it may be two seconds until it asks.
    pub(crate) fn pings(&self, address: &str) -> bool {
        let mut ping = self.command("ping");
        ping.args(["-n", "-i", "0.05", "-w", "20", address]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ping = ping.spawn().expect("iproute2 is installed");
        let lines = BufReader::new(ping.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut missing = BTreeSet::from([1, 2, 3, 4, 5]);
        let all = lines.filter_map(|line| answered(&line)).any(|number| {
            missing.remove(&number);
            missing.is_empty()
        });
        let _ = ping.kill();
        ping.wait().expect("its end");
        all
    }

    /// True if an echo request is answered within a second.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.exec(&format!("ping -n -q -c 1 -W 1 {address}")).status.success()
    }

    /// True if the only echo request, which nobody repeats, is answered, however late.
    pub(crate) fn reaches_by_one_packet(&self, address: &str) -> bool {
        self.exec(&format!("ping -n -q -c 1 -W 20 {address}")).status.success()
    }

    /// Runs `work` on a thread that is in here.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = File::open(self.path()).expect("the namespace is there");
        std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered (root is needed)");
            work()
        })
    }

    /// A counter of `/proc/net/snmp`, such as `Udp`, `InErrors`.
    pub(crate) fn snmp(&self, protocol: &str, counter: &str) -> u64 {
        let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel's counters");
        let text = self.enter(read).join().expect("a reader");
        let prefix = format!("{protocol}:");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::split_whitespace);
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let value = names.zip(values).find(|(name, _)| *name == counter).expect("a counter of this name").1;
        value.parse().expect("a number")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It fails where the test has deleted it already.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// Echo requests that are sent until they are no longer needed.
pub(crate) struct Stream {
    ping: Child,
    said: File,
}

impl Stream {
    fn said(&self) -> String {
        // Not by the offset, which is the one that ping writes at.
        let mut bytes = vec![0; self.said.metadata().expect("its size").len() as usize];
        self.said.read_exact_at(&mut bytes, 0).expect("what it said");
        String::from_utf8(bytes).expect("ping prints text")
    }

    /// Ends it, once further answers have come: what was lost until now is a hole before them. Each request up to the last that is
    /// answered must have been, once and in order.
    pub(crate) fn assert_unbroken(self) {
        self.assert_answered(true);
    }

    /// The same, but the order may be another: what moves a flow to another worker may have one packet overtake another where the
    /// first worker has no time.
    pub(crate) fn assert_whole(self) {
        self.assert_answered(false);
    }

    fn assert_answered(mut self, in_order: bool) {
        let flowed = self.said().lines().filter_map(answered).count();
        wait_for("the stream to go on", || {
            (self.said().lines().filter_map(answered).count() > flowed + 10).then_some(())
        });
        kill(Pid::from_raw(self.ping.id() as i32), Signal::SIGINT).expect("it can be signalled");
        self.ping.wait().expect("its end");
        let said = self.said();
        let mut answered: Vec<_> = said.lines().filter_map(answered).collect();
        if !in_order {
            answered.sort_unstable();
        }
        assert!(answered.iter().copied().eq(1..=answered.len()), "an answer is missing:\n{said}");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}

/// The number of the echo request that this line of `ping` tells the answer to.
fn answered(line: &str) -> Option<usize> {
    let (_, told) = line.split_once(" bytes from ")?;
    told.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok()
}

fn run(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).output().expect("iproute2 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {} failed (root is needed): {complaint}", words.join(" "));
    String::from_utf8(output.stdout).expect("ip prints text")
}
