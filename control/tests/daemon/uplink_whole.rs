//! Large frames that the kernel gets whole (`uplink.tunnel_gso`): what arrives, what the wire carries where the kernel has to cut, and
//! what must not pass by the sockets.
//!
//! Linux has it since 6.17. On an older one weft must do without, which is what is tested there.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_api::LargeFrames;

use crate::lab::{Lab, Namespace, Weftd, tap_pod, wait_for};
use crate::tunnel::{kernel_node, stream};

/// weft's way into the kernel.
const OUT: &str = "weft-out0";

struct Nodes {
    lab: Lab,
    web: Namespace,
    far: Namespace,
    weftd: Weftd,
}

fn nodes(uplink: &str) -> Nodes {
    let lab = Lab::new();
    lab.configure("", &format!("kind = \"socket\"\n{uplink}"), "");
    let (web, far) = (Namespace::new("web"), kernel_node(&lab, 1450));
    lab.write_cluster(&tap_pod("web", 2, &web));
    let weftd = lab.start();
    lab.peer_resolved();
    wait_for("the way", || web.reaches("10.244.1.2").then_some(()));
    Nodes { lab, web, far, weftd }
}

impl Nodes {
    /// Packets that have gone that way; `None` where there is no such way.
    fn whole(&self) -> Option<u64> {
        if !self.lab.node.has_interface(OUT) {
            return None;
        }
        let link = self.lab.node.json(&format!("-s link show dev {OUT}"));
        link[0].pointer("/stats64/rx/packets").and_then(Value::as_u64)
    }

    /// The same, where the kernel has it.
    fn whole_if_known(&self) -> Option<u64> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's version");
        let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
        let version = (numbers.next().expect("a number"), numbers.next().expect("another"));
        let whole = self.whole();
        assert_eq!(whole.is_some(), version >= (6, 17), "{OUT} on Linux {}", release.trim());
        whole
    }

    fn streams(&self) {
        for address in ["10.244.1.2", "fd00:10:244:1::2"] {
            stream(&self.web, &self.far, address);
        }
    }

    fn nothing_is_wrong(&mut self) {
        self.weftd.assert_alive();
        self.lab.counters_balance();
        for reason in ["gso_malformed", "tx_not_taken", "tx_refused", "mtu_exceeded"] {
            assert_eq!(self.lab.drops(reason), 0, "{reason}");
        }
        for protocol in ["Udp", "Tcp"] {
            let errors = self.lab.peer.snmp(protocol, if protocol == "Udp" { "InErrors" } else { "InErrs" });
            assert_eq!(errors, 0, "{protocol}");
        }
    }
}

/// Switches offloads of an interface, by the numbers that linux/ethtool.h has for them.
fn switch(namespace: &Namespace, interface: &str, on: bool) {
    const SET: [u32; 3] = [0x17, 0x1f, 0x24]; // transmit checksums, TSO, GSO
    let program = format!(
        "import fcntl, socket, struct, ctypes\n\
         for command in {SET:?}:\n\
         \x20   value = ctypes.create_string_buffer(struct.pack('II', command, {}))\n\
         \x20   request = struct.pack('16sP', b'{interface}', ctypes.addressof(value)).ljust(40, b'\\0')\n\
         \x20   fcntl.ioctl(socket.socket(), 0x8946, request)\n",
        u32::from(on)
    );
    let output = namespace.command("python3").args(["-c", &program]).output().expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn end(mut process: Child) {
    // It may have ended by itself.
    let _ = process.kill();
    process.wait().expect("the process's end");
}

#[test]
fn large_frames_go_whole_and_arrive() {
    let mut nodes = nodes("");
    nodes.streams();
    let (whole, uplink) = (nodes.whole_if_known(), nodes.lab.status().uplink);
    if let Some(whole) = whole {
        assert!(whole > 0, "all of them went through sockets");
        assert_eq!(
            (uplink.large_frames, uplink.whole_frames),
            (LargeFrames::Whole, whole),
            "the status says so"
        );
    } else {
        assert_eq!((uplink.large_frames, uplink.whole_frames), (LargeFrames::Kernel, 0));
    }
    nodes.nothing_is_wrong();
}

#[test]
fn an_interface_without_offloads_has_them_cut_by_the_kernel() {
    let mut nodes = nodes("");
    switch(&nodes.lab.node, "up0", false);
    let before = nodes.lab.peer.json("-s link show dev up0")[0].clone();
    nodes.streams();
    let after = nodes.lab.peer.json("-s link show dev up0")[0].clone();
    let grown = |what: &str| {
        let value = |link: &Value| link.pointer(what).and_then(Value::as_u64).expect("a counter");
        value(&after) - value(&before)
    };
    let mean = grown("/stats64/rx/bytes") / grown("/stats64/rx/packets").max(1);
    assert!(mean <= 1514, "frames of {mean} bytes on a wire of 1500");
    if let Some(whole) = nodes.whole_if_known() {
        assert!(whole > 0, "all of them went through sockets");
    }
    nodes.nothing_is_wrong();
}

#[test]
fn what_the_filter_forbids_does_not_pass_it_by() {
    let nodes = nodes("");
    let receiver =
        nodes.far.command("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn().expect("iperf3 starts");
    wait_for("the receiver", || {
        nodes.far.exec("ss -Hltn sport = 5201").stdout.starts_with(b"LISTEN").then_some(())
    });
    let mut sender = nodes.web.command("iperf3");
    let sender =
        sender.args(["-c", "10.244.1.2", "-t", "30"]).stdout(Stdio::null()).spawn().expect("iperf3 starts");
    if nodes.whole_if_known().is_some() {
        let before = nodes.whole();
        wait_for("large frames to go whole", || {
            (nodes.whole() > before.map(|whole| whole + 10)).then_some(())
        });
    }
    nodes.lab.node.nft(
        "table inet t {\n chain out {\n type filter hook output priority 0;\n udp dport 8472 drop;\n }\n}\n",
    );
    // Then every socket has the word soon.
    wait_for("a packet to be refused", || (nodes.lab.drops("tx_refused") > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    let before = nodes.whole();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(nodes.whole(), before, "large frames pass the filter by");
    end(sender);
    end(receiver);
}

#[test]
fn it_can_be_switched_off() {
    let mut nodes = nodes("tunnel_gso = \"never\"");
    nodes.streams();
    assert_eq!(nodes.whole(), None);
    nodes.nothing_is_wrong();
}

#[test]
fn the_way_goes_with_the_daemon() {
    let Nodes { lab, weftd, .. } = nodes("");
    let had = lab.node.has_interface(OUT);
    drop(weftd);
    wait_for("the interface to go", || (!lab.node.has_interface(OUT)).then_some(()));
    let _again = lab.start();
    assert_eq!(lab.node.has_interface(OUT), had);
}
