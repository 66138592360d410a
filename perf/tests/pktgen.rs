//! `weft-pktgen` from outside: as a program, on DPDK's virtual devices.

use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{LinkSlice, NetSlice, SlicedPacket, TransportSlice};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// No test should come near it.
const PATIENCE: Duration = Duration::from_secs(120);

fn command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-pktgen"));
    command.args(words.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs it; the exit code, what it printed as JSON, and what it complained of.
fn pktgen(words: &str) -> (i32, Value, String) {
    let Output { status, stdout, stderr } = command(words).args(["-o", "json"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let code = status.code().unwrap_or_else(|| panic!("{words}: {status}: {stderr}"));
    (code, serde_json::from_slice(&stdout).unwrap_or(Value::Null), stderr)
}

/// A run that must succeed.
fn run(words: &str) -> Value {
    let (code, report, stderr) = pktgen(&format!("run {words}"));
    assert_eq!(code, 0, "{words}: {stderr}\n{report:#}");
    report
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report:#}"))
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(words: &str) -> Self {
        let mut command = command(words);
        Self(command.args(["-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    /// Returns when its thread is there that sends: signals are waited for by then.
    fn wait_until_ready(&self) {
        let (begin, tasks) = (Instant::now(), format!("/proc/{}/task", self.0.id()));
        let is_there = || {
            let tasks = fs::read_dir(&tasks).unwrap().flatten();
            let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            tasks.map(name).any(|name| name.trim() == "pktgen")
        };
        while !is_there() {
            assert!(begin.elapsed() < PATIENCE, "it does not begin");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(mut self) -> (Option<i32>, Value, String) {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(20));
        };
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status.code(), serde_json::from_str(&stdout).unwrap_or(Value::Null), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A capture file: its header, and each record with its header.
struct Capture {
    header: Vec<u8>,
    records: Vec<Vec<u8>>,
}

impl Capture {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (header, mut rest) = bytes.split_at(24);
        let mut records = Vec::new();
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
            let (record, behind) = rest.split_at(16 + len);
            records.push(record.to_vec());
            rest = behind;
        }
        Self { header: header.to_vec(), records }
    }

    fn write(&self, path: &Path) {
        let mut bytes = self.header.clone();
        self.records.iter().for_each(|record| bytes.extend(record));
        fs::write(path, bytes).unwrap();
    }

    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().map(|record| &record[16..])
    }
}

/// Sends into a capture file.
fn captured(folder: &Path, words: &str) -> (Capture, Value, PathBuf) {
    let path = folder.join("sent.pcap");
    let port = format!("--port net_pcap0,tx_pcap={}", path.display());
    let report =
        run(&format!("{port} --send-only --rate 200k --seconds 100 --count 2000 --settle 0.01 {words}"));
    (Capture::read(&path), report, path)
}

#[test]
fn what_goes_round_comes_back_whole() {
    let report = run(
        "--port net_ring0 --rate 50k --seconds 100 --count 10000 --settle 10 --flows 1000 --order zipf:1.1 --frame imix --no-hugepages --max-loss 0",
    );
    assert_eq!((count(&report, "sent"), count(&report, "received")), (10_000, 10_000));
    for field in ["lost", "duplicated", "reordered", "corrupted", "other", "flows_with_loss"] {
        assert_eq!(count(&report, field), 0, "{field}");
    }
    assert_eq!(report["memory"], "ordinary pages");
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
    assert!(latency("min") > 0.0 && latency("min") <= latency("p50"));
    assert!(latency("p50") <= latency("p99") && latency("p999") <= latency("max"));
}

#[test]
fn what_never_arrives_is_lost() {
    let words = "--port net_null0,no-rx=1 --rate 20k --seconds 100 --count 500 --flows 10 --settle 0.05";
    let report = run(words);
    assert_eq!(count(&report, "lost"), count(&report, "sent"));
    assert_eq!((count(&report, "received"), count(&report, "flows_with_loss")), (0, 10));
    assert_eq!(report["loss"], 1.0);
    assert!(report["latency_us"].is_null());
    assert_eq!(pktgen(&format!("run {words} --max-loss 100")).0, 3, "nothing at all is no pass");
    assert_eq!(pktgen(&format!("run {words} --max-loss 1")).0, 3);
}

#[test]
fn frames_of_others_are_told_from_ours() {
    // It delivers fresh buffers without end: zeros, as long as nothing else was in them.
    let report = run("--port net_null0,size=64 --receive-only --seconds 0.05");
    assert!(count(&report, "other") > 0);
    assert_eq!((count(&report, "received"), count(&report, "corrupted")), (0, 0));
}

#[test]
fn frames_are_as_the_options_say() {
    let folder = tempfile::tempdir().unwrap();
    let (capture, report, _) = captured(
        folder.path(),
        "--flows 40 --frame 64:3,300 --src-mac 02:00:00:00:07:01+2 --dst-mac 02:00:00:00:08:01+4 --dst-ip 10.9.8.7+4 --udp-port 7000 --arp 10",
    );
    let sent = count(&report, "sent");
    let (mut arps, mut long, mut ports) = (0, 0, std::collections::HashSet::new());
    for frame in capture.frames() {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(LinkSlice::Ethernet2(ethernet)) = &sliced.link else { panic!("no Ethernet") };
        let source = ethernet.source();
        assert!(source == [2, 0, 0, 0, 7, 1] || source == [2, 0, 0, 0, 7, 2]);
        if frame[12..14] == [8, 6] {
            assert_eq!((frame.len(), &frame[..6], &frame[20..22]), (60, &[0xff; 6][..], &[0, 1][..]));
            arps += 1;
            continue;
        }
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let last = ethernet.destination()[5];
        assert_eq!(header.destination, [10, 9, 8, 6 + last], "addresses of one pair belong together");
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
        assert_eq!(udp.destination_port(), 7000);
        ports.insert((header.destination, udp.source_port()));
        assert!(frame.len() == 60 || frame.len() == 296, "{}", frame.len());
        long += u64::from(frame.len() == 296);
    }
    assert_eq!((capture.records.len() as u64, sent + arps, arps), (2000, 2000, count(&report, "arp_sent")));
    assert_eq!(ports.len(), 40, "flows");
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    assert!((share(long, sent) - 0.25).abs() < 0.01, "{long} long ones of {sent}");
    assert!((share(arps, sent + arps) - 0.1).abs() < 0.01, "{arps} ARP requests beside {sent}");
}

#[test]
fn tunnel_frames_have_both_their_headers() {
    let folder = tempfile::tempdir().unwrap();
    let (capture, report, path) = captured(
        folder.path(),
        "--vxlan --flows 6 --vni 5+3 --outer-dst-ip 192.0.2.9+3 --frame 128 --vxlan-port 4789",
    );
    assert_eq!(capture.records.len() as u64, count(&report, "sent"));
    for (index, frame) in capture.frames().enumerate() {
        assert_eq!(frame.len(), 124 + 50);
        let outer = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &outer.net else { panic!("no IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(header.destination, [192, 0, 2, 9 + (index % 3) as u8]);
        let Some(TransportSlice::Udp(udp)) = &outer.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), usize::from(udp.length())), (4789, frame.len() - 34));
        assert!(udp.source_port() >= 49152);
        assert_eq!(frame[42..50], [8, 0, 0, 0, 0, 0, 5 + (index % 3) as u8, 0]);
        let inner = SlicedPacket::from_ethernet(&frame[50..]).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &inner.net else { panic!("no inner IPv4") };
        assert_eq!(Ipv4Addr::from(ip.header().destination()), Ipv4Addr::new(198, 19, 0, 1));
    }
    let words = "--receive-only --vxlan --flows 6 --vni 5+3 --frame 128 --vxlan-port 4789 --settle 0.1";
    let report = run(&format!("--port net_pcap0,rx_pcap={} {words}", path.display()));
    assert_eq!((count(&report, "received"), count(&report, "lost")), (capture.records.len() as u64, 0));
}

#[test]
fn the_receiver_sees_each_wrong_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (mut capture, report, sent) = captured(folder.path(), "--flows 7 --frame 200 --seed 9");
    let total = count(&report, "sent");
    assert_eq!(total, 2000);
    let read = |path: &Path, words: &str| {
        let words =
            format!("run --port net_pcap0,rx_pcap={} --receive-only --settle 0.1 {words}", path.display());
        let (code, report, stderr) = pktgen(&words);
        assert!(code == 0 || code == 3, "{stderr}");
        (code, report)
    };
    let fields = ["received", "lost", "duplicated", "reordered", "corrupted", "other"];
    let counts = |report: &Value| fields.map(|field| count(report, field));
    let (code, report) = read(&sent, "--flows 7 --frame 200 --seed 9 --max-loss 0");
    assert_eq!((code, counts(&report)), (0, [total, 0, 0, 0, 0, 0]));
    let (_, report) = read(&sent, "--flows 7 --frame 200 --seed 8");
    assert_eq!(counts(&report), [0, 0, 0, 0, total, 0], "another run's packets are not this one's");

    // Two are lost and two damaged, which are lost too: of three flows together. Three come twice, one is overtaken by the
    // next of its flow, and one is somebody else's.
    let spoilt = folder.path().join("spoilt.pcap");
    let records = &mut capture.records;
    records[40][16 + 100] ^= 0x10;
    records[51][16 + 27] ^= 1;
    let copies: Vec<_> = records[60..63].to_vec();
    records.swap(80, 87);
    let mut foreign = records[90].clone();
    foreign[16 + 36..16 + 38].copy_from_slice(&53_u16.to_be_bytes());
    foreign[16 + 44] ^= 1;
    records.push(foreign);
    let end = records.split_off(100);
    records.extend(copies);
    records.extend(end);
    records.remove(31);
    records.remove(30);
    capture.write(&spoilt);
    let (code, report) = read(&spoilt, "--flows 7 --frame 200 --seed 9");
    assert_eq!(code, 3, "something was corrupted");
    assert_eq!(counts(&report), [total - 4, 4, 3, 1, 2, 1]);
    assert_eq!(count(&report, "flows_with_loss"), 3);
}

#[test]
fn a_plan_says_who_speaks_to_whom() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.json");
    let pair = |n: u8| {
        format!(
            r#"{{"src_mac":"02:00:00:00:00:01","dst_mac":"02:00:00:00:01:{n:02x}","src":"10.0.0.1","dst":"10.0.1.{n}"}}"#
        )
    };
    fs::write(&plan, format!(r#"{{"pairs":[{},{}]}}"#, pair(3), pair(9))).unwrap();
    let (capture, ..) = captured(folder.path(), &format!("--plan {} --flows 2", plan.display()));
    let destinations: Vec<u8> = capture.frames().take(4).map(|frame| frame[33]).collect();
    assert_eq!(destinations, [3, 9, 3, 9]);
    fs::write(&plan, format!(r#"{{"pairs":[{}]}}"#, pair(3).replace("10.0.1.3", "10.0.1.300"))).unwrap();
    let (code, _, stderr) = pktgen(&format!("run --port net_ring0 --plan {}", plan.display()));
    assert_eq!(code, 2);
    assert!(
        stderr.contains("plan.json") && stderr.contains("10.0.1.300") || stderr.contains("IPv4"),
        "{stderr}"
    );
}

/// One sends and the other receives, over what joins two processes.
fn between_processes(socket: &Path, receiver: &str, sender: &str) {
    let traffic = "--flows 100 --frame imix --no-hugepages --link-wait 60";
    let receiving =
        Running::start(&format!("run --port {receiver} --receive-only --seconds 100 --settle 5 {traffic}"));
    let begin = Instant::now();
    while !socket.exists() {
        assert!(begin.elapsed() < PATIENCE, "the receiver makes no socket");
        thread::sleep(Duration::from_millis(20));
    }
    let sending =
        format!("run --port {sender} --send-only --rate 20k --count 3000 --seconds 100 --settle 3 {traffic}");
    let (code, sent, stderr) = pktgen(&sending);
    assert_eq!(code, 0, "{stderr}");
    let (code, received, stderr) = receiving.end();
    assert_eq!(code, Some(0), "{stderr}");
    let sent = count(&sent, "sent");
    assert_eq!(sent, 3000);
    assert_eq!(["received", "lost", "corrupted"].map(|field| count(&received, field)), [sent, 0, 0]);
}

#[test]
fn two_processes_meet_by_memif() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("memif.sock");
    let end = |role| format!("net_memif0,role={role},socket={},socket-abstract=no", socket.display());
    between_processes(&socket, &end("server"), &end("client"));
}

#[test]
fn two_processes_meet_by_vhost_user() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vhost.sock");
    let path = socket.display();
    let (server, guest) =
        (format!("net_vhost0,iface={path}"), format!("net_virtio_user0,path={path},queues=1"));
    between_processes(&socket, &server, &guest);
}

#[test]
fn a_search_bisects_and_measures_below() {
    let words = "throughput --port net_ring0 --max-rate 40k --seconds 0.1 --resolution 20 --tries 3 --settle 0.1 --at 10,50";
    let (code, report, stderr) = pktgen(words);
    let asked: Vec<f64> = report["trials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trial| trial["asked_pps"].as_f64().unwrap())
        .collect();
    assert_eq!(asked[0], 40_000.0, "{stderr}");
    // A machine with other work to do may fail at any rate.
    match report["zero_loss_pps"].as_f64() {
        Some(rate) => {
            assert_eq!(code, 0);
            assert!(
                asked.contains(&rate)
                    && asked.iter().all(|other| *other == rate || (other - rate).abs() > 1.0)
            );
            let found = &report["at_zero_loss"];
            assert_eq!((found["lost"].as_u64(), found["asked_pps"].as_f64()), (Some(0), Some(rate)));
            let at = report["at"].as_array().unwrap();
            assert_eq!(at.len(), 2);
            assert_eq!(at[1]["asked_pps"].as_f64(), Some(rate / 2.0));
            assert!(at[0]["latency_us"]["p999"].is_number());
        }
        None => assert_eq!(code, 3),
    }
}

#[test]
fn a_search_without_a_result_says_so() {
    let (code, report, _) = pktgen(
        "throughput --port net_null0,no-rx=1 --seconds 0.05 --max-rate 10k --resolution 30 --settle 0.01",
    );
    assert_eq!(code, 3);
    assert!(report["zero_loss_pps"].is_null());
    assert!(report["trials"].as_array().unwrap().len() >= 2);
}

#[test]
fn a_signal_ends_the_run_and_the_report_comes() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let running = Running::start("run --port net_ring0 --rate 10k --seconds 3600");
        // Once it sends, signals are waited for.
        running.wait_until_ready();
        kill(running.id(), signal).unwrap();
        let (found, report, stderr) = running.end();
        assert_eq!(found, Some(code), "{stderr}");
        assert_eq!(count(&report, "received"), count(&report, "sent"));
        let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        assert_eq!(error["code"], "stopped");
        assert!(error["error"].as_str().unwrap().contains(&format!("stopped by {signal}")), "{stderr}");
    }
}

#[test]
fn a_signal_ends_a_search() {
    let running = Running::start("throughput --port net_ring0 --max-rate 10k --seconds 3600");
    running.wait_until_ready();
    kill(running.id(), Signal::SIGINT).unwrap();
    let (code, report, stderr) = running.end();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(report["zero_loss_pps"].is_null());
    assert!(stderr.contains("no rate was found"), "{stderr}");
}

/// Who waits for the other end can be ended as well, by the first signal.
#[test]
fn a_signal_ends_the_wait_for_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("memif.sock");
    let port = format!("net_memif0,role=server,socket={},socket-abstract=no", socket.display());
    let running = Running::start(&format!("run --port {port} --link-wait 3600 --no-hugepages"));
    let begin = Instant::now();
    while !socket.exists() {
        assert!(begin.elapsed() < PATIENCE, "it makes no socket");
        thread::sleep(Duration::from_millis(20));
    }
    kill(running.id(), Signal::SIGINT).unwrap();
    let (code, report, stderr) = running.end();
    assert_eq!((code, report), (Some(130), Value::Null), "{stderr}");
}

#[test]
fn tables_are_for_people() {
    let out = command("run --port net_ring0 --rate 10k --seconds 0.05 --flows 3").output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    for word in ["sent", "received", "lost", "corrupted", "latency", "p99.9"] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "nothing is said where nobody looks");
}

#[test]
fn wrong_options_are_refused_with_what_to_do() {
    for (words, said) in [
        ("run", "--port"),
        ("run --port net_ring0 --rate fast", "1.5M"),
        ("run --port net_ring0 --rate 50%", "--line-rate"),
        ("run --port net_ring0 --rate=-5", "--rate"),
        ("run --port net_ring0 --frame 63", "64 to 9216"),
        ("run --port net_ring0 --frame imax", "imix"),
        ("run --port net_ring0 --flows 0", "--flows"),
        ("run --port net_ring0 --flows 99999999999", "--flows"),
        ("run --port net_ring0 --flows 2000000 --udp-port 65530", "--udp-port"),
        ("run --port net_ring0 --order zipf:x", "exponent"),
        ("run --port net_ring0 --src-mac 02:00:00:00:00", "MAC"),
        ("run --port net_ring0 --dst-ip 10.0.0.1+99999999", "range"),
        ("run --port net_ring0 --dst-ip 255.255.255.255+2", "past the last"),
        ("run --port net_ring0 --vni 7", "--vxlan"),
        ("run --port net_ring0 --vxlan --vni 16777216", "past the last"),
        ("run --port net_ring0 --arp 100", "--arp"),
        ("run --port net_ring0 --seconds 0", "--seconds"),
        ("run --port net_ring0 --seconds 1e12", "--seconds"),
        ("run --port net_ring0 --plan /nowhere/plan.json", "/nowhere/plan.json"),
        ("run --port net_ring0 --core 4096", "--core"),
        ("run --port net_ring0 --send-only --receive-only", "--receive-only"),
        ("run --port net_ring0 --port net_ring0", "twice"),
        ("run --port a --port b --port c", "one or two"),
        ("throughput --port net_ring0 --resolution 0", "--resolution"),
        ("throughput --port net_ring0 --at 10,200", "--at"),
        ("throughput --port net_ring0 --tries 0", "--tries"),
        ("walk", "walk"),
    ] {
        let out = command(words).output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{words}: {stderr}");
        assert!(stderr.contains(said), "{words}: {said:?} is not in: {stderr}");
        assert!(out.stdout.is_empty(), "{words}");
    }
}

#[test]
fn ports_that_do_not_open_are_named() {
    for (words, said) in [
        ("run --port net_nothing0", "net_nothing0"),
        ("run --port net_pcap0,rx_pcap=/nowhere/in.pcap", "net_pcap0"),
        ("run --port net_memif0,role=server --link-wait 0.1", "--link-wait"),
        ("run --port net_ring0 --buffers 4096 --descriptors 4096", "--buffers"),
    ] {
        let (code, report, stderr) = pktgen(words);
        assert_eq!((code, &report), (1, &Value::Null), "{words}: {stderr}");
        let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        assert_eq!(error["code"], "failed");
        assert!(error["error"].as_str().unwrap().contains(said), "{words}: {stderr}");
    }
}

#[test]
fn help_and_completions_are_there() {
    let out = command("--help").output().unwrap();
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).contains("Exit codes"));
    for shell in ["bash", "zsh", "fish"] {
        let out = command(&format!("completions {shell}")).output().unwrap();
        assert!(out.status.success());
        assert!(String::from_utf8_lossy(&out.stdout).contains("receive-only"), "{shell}");
    }
}
