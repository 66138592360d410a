//! What the machine and its kernel have.

use weft_config::config::{Config, Hugepages, Idle, UplinkKind};

use super::{Line, Machine};

const MIB: u64 = 1 << 20;
/// What weftd takes beside packet buffers, more or less.
const BESIDE: u64 = 128 * MIB;

pub(super) fn lines(machine: &Machine, config: &Config) -> Vec<Line> {
    vec![
        processor(machine),
        cores(machine, config),
        hugepages(machine, config),
        memory(machine, config),
        kernel(machine, config),
        tun(machine),
        bpf(machine, config),
    ]
}

fn processor(machine: &Machine) -> Line {
    const CHECK: &str = "processor";
    let text = machine.read("proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let missing: Vec<_> = ["ssse3", "sse4_1", "sse4_2", "popcnt"]
        .into_iter()
        .filter(|flag| !flags.split_whitespace().any(|word| word == *flag))
        .collect();
    match missing[..] {
        [] => Line::ok(CHECK, "x86-64-v2 or better"),
        _ => Line::problem(
            CHECK,
            format!("it lacks {}", missing.join(", ")),
            "weft needs x86-64-v2; in a virtual machine give it the host's CPU model",
        ),
    }
}

/// A list such as `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    // More than any machine has: what the kernel says is short, but it is only text.
    list.split(',').filter_map(range).flatten().take(1 << 16).collect()
}

fn cores(machine: &Machine, config: &Config) -> Line {
    const CHECK: &str = "cores";
    let text = machine.read("proc/self/status").unwrap_or_default();
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let (allowed, settings) = (numbers(list), &config.dataplane);
    let (there, workers) = (allowed.len(), settings.workers);
    if there == 0 {
        return Line::warning(CHECK, "the kernel does not say which there are", "mount /proc");
    }
    let strange: Vec<_> =
        settings.cores.iter().filter(|core| !allowed.contains(core)).map(usize::to_string).collect();
    if !strange.is_empty() {
        return Line::problem(
            CHECK,
            format!("dataplane.cores names {}, but there are {}", strange.join(", "), list.trim()),
            "name cores that there are, or leave dataplane.cores out",
        );
    }
    let found = format!("{there} for {workers} of weft's workers");
    if workers > there {
        Line::problem(CHECK, found, "set dataplane.workers to less: each has a core of its own")
    } else if workers == there && settings.idle == Idle::Poll {
        Line::problem(
            CHECK,
            found,
            "no core is left for anything else: set dataplane.idle to adaptive, or workers to less",
        )
    } else if workers == there && there > 1 {
        Line::warning(CHECK, found, "under load nothing is left for pods: set dataplane.workers to less")
    } else {
        Line::ok(CHECK, found)
    }
}

/// Bytes in huge pages, all and free.
fn huge(machine: &Machine) -> (u64, u64) {
    let folder = "sys/kernel/mm/hugepages";
    let bytes = |name: String| {
        let size: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = |what| machine.number(&format!("{folder}/{name}/{what}")).unwrap_or(0);
        let of = |pages: u64| pages.saturating_mul(size).saturating_mul(1024);
        Some((of(pages("nr_hugepages")), of(pages("free_hugepages"))))
    };
    let sizes = machine.names(folder).into_iter().filter_map(bytes);
    sizes.fold((0, 0), |(all, free), (a, f)| (all + a, free + f))
}

fn hugepages(machine: &Machine, config: &Config) -> Line {
    const CHECK: &str = "hugepages";
    let ((all, free), wanted) = (huge(machine), config.dataplane.memory);
    let found =
        format!("{} MiB free of {} MiB, for {} MiB of packet buffers", free / MIB, all / MIB, wanted / MIB);
    // weft's other memory in them is little.
    let remedy = format!("sysctl -w vm.nr_hugepages={}", (wanted + 32 * MIB).div_ceil(2 * MIB));
    match config.dataplane.hugepages {
        Hugepages::Never => Line::ok(CHECK, "they are not asked for (dataplane.hugepages)"),
        _ if free >= wanted => Line::ok(CHECK, found),
        Hugepages::Require => Line::problem(CHECK, found, remedy),
        Hugepages::Auto if all > 0 => {
            Line::warning(CHECK, found, format!("{remedy}; or weftd does without, some percent slower"))
        }
        Hugepages::Auto => {
            Line::ok(CHECK, format!("none, so weftd does without, some percent slower; {remedy}"))
        }
    }
}

fn memory(machine: &Machine, config: &Config) -> Line {
    const CHECK: &str = "memory";
    let text = machine.read("proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let Some(available) = kib.map(|kib| kib.saturating_mul(1024)) else {
        return Line::warning(CHECK, "the kernel does not say how much is available", "mount /proc");
    };
    let buffers = config.dataplane.memory;
    let in_huge_pages = config.dataplane.hugepages != Hugepages::Never && huge(machine).1 >= buffers;
    let needed = BESIDE + if in_huge_pages { 0 } else { buffers };
    let found = format!("{} MiB available, some {} MiB needed", available / MIB, needed / MIB);
    match available >= needed {
        true => Line::ok(CHECK, found),
        false => Line::problem(CHECK, found, "set dataplane.memory to less, or give the node more"),
    }
}

/// The first two numbers of the kernel's version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(machine: &Machine, config: &Config) -> Line {
    const CHECK: &str = "kernel";
    /// What comes with which version, and is worth saying.
    const FEATURES: [((u32, u32), &str); 3] = [
        ((4, 18), "UDP messages that the kernel cuts (UDP GSO)"),
        ((6, 2), "large UDP frames from pods (USO)"),
        ((6, 17), "large tunnel packets, whole (uplink.tunnel_gso)"),
    ];
    let text = machine.read("proc/sys/kernel/osrelease").unwrap_or_default();
    let Some(version) = version(&text) else {
        return Line::warning(CHECK, "its version can't be read", "mount /proc");
    };
    let found = |has: bool| {
        let features = FEATURES.iter().filter(|(since, _)| (version >= *since) == has);
        features.map(|(_, feature)| *feature).collect::<Vec<_>>().join(", ")
    };
    let mut said = format!("{}: {}", text.trim(), found(true));
    if version < (6, 17) {
        said += &format!("; without {}", found(false));
    }
    let kept = config.uplink.kind != UplinkKind::Socket;
    if kept && version < (5, 16) {
        let remedy = "use uplink.kind = \"socket\", or Linux 5.16: before it, the kernel does not keep neighbours for others";
        Line::problem(CHECK, said, remedy)
    } else if version < (5, 10) {
        Line::warning(CHECK, said, "weft is tested from Linux 6.1 on")
    } else {
        Line::ok(CHECK, said)
    }
}

fn tun(machine: &Machine) -> Line {
    match machine.has("dev/net/tun") {
        true => Line::ok("tun", "/dev/net/tun is there"),
        false => Line::problem(
            "tun",
            "there is no /dev/net/tun, by which pods and the host get their interfaces",
            "modprobe tun; in a container, give it the device",
        ),
    }
}

fn bpf(machine: &Machine, config: &Config) -> Line {
    const CHECK: &str = "bpf";
    // The setting is there as soon as the system call is.
    let bpf = machine.has("proc/sys/kernel/unprivileged_bpf_disabled");
    let protocols = machine.read("proc/net/protocols").unwrap_or_default();
    let xdp = protocols.lines().any(|line| line.split_whitespace().next() == Some("XDP"));
    let has = |is: bool| if is { "there" } else { "not there" };
    let found = format!("BPF is {}, AF_XDP is {}", has(bpf), has(xdp));
    let remedy = "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS, or another uplink.kind";
    match config.uplink.kind {
        UplinkKind::AfXdp if !bpf || !xdp => Line::problem(CHECK, found, remedy),
        _ if !bpf => Line::warning(
            CHECK,
            found,
            "without BPF a pod's traffic stays on one worker, and large frames are cut",
        ),
        _ => Line::ok(CHECK, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, machine_with};
    use super::*;

    #[test]
    fn lists_and_versions() {
        assert_eq!(numbers("\t0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(numbers("x,3"), [3]);
        assert_eq!(version("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(version("6.17-rc1"), Some((6, 17)));
        assert_eq!(version("none"), None);
    }

    #[test]
    fn cores_are_for_more_than_workers() {
        let (_folder, machine) = machine_with(&[("proc/self/status", "Cpus_allowed_list:\t0-1\n")]);
        let verdict = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            cores(&machine, &config).verdict
        };
        assert_eq!(verdict(|_| {}), Verdict::Ok);
        assert_eq!(verdict(|c| c.dataplane.workers = 2), Verdict::Warning);
        assert_eq!(verdict(|c| c.dataplane.workers = 3), Verdict::Problem);
        assert_eq!(verdict(|c| c.dataplane.cores = vec![2]), Verdict::Problem);
        let poll = |c: &mut Config| {
            c.dataplane.workers = 2;
            c.dataplane.idle = Idle::Poll;
        };
        assert_eq!(verdict(poll), Verdict::Problem);
    }

    #[test]
    fn memory_is_in_huge_pages_or_not() {
        let pages = "sys/kernel/mm/hugepages/hugepages-2048kB";
        let with = |all: &str, free: &str, available: &str| {
            machine_with(&[
                (format!("{pages}/nr_hugepages").as_str(), all),
                (format!("{pages}/free_hugepages").as_str(), free),
                ("proc/meminfo", format!("MemTotal: 9 kB\nMemAvailable:  {available} kB\n").as_str()),
            ])
        };
        let verdicts = |all: &str, free: &str, available: &str, hugepages| {
            let (_folder, machine) = with(all, free, available);
            let mut config = Config::default();
            (config.dataplane.memory, config.dataplane.hugepages) = (64 * MIB, hugepages);
            (super::hugepages(&machine, &config).verdict, memory(&machine, &config).verdict)
        };
        use Verdict::{Ok, Problem, Warning};
        assert_eq!(verdicts("0", "0", "1000000", Hugepages::Auto), (Ok, Ok));
        assert_eq!(verdicts("64", "3", "150000", Hugepages::Auto), (Warning, Problem));
        assert_eq!(verdicts("64", "64", "150000", Hugepages::Auto), (Ok, Ok));
        assert_eq!(verdicts("64", "31", "1000000", Hugepages::Require), (Problem, Ok));
        assert_eq!(verdicts("64", "64", "150000", Hugepages::Never), (Ok, Problem));
    }

    #[test]
    fn the_kernel_is_held_against_the_uplink() {
        let line = |release: &str, kind| {
            let (_folder, machine) = machine_with(&[("proc/sys/kernel/osrelease", release)]);
            let mut config = Config::default();
            config.uplink.kind = kind;
            kernel(&machine, &config)
        };
        let new = line("6.18.0", UplinkKind::Socket);
        assert!(new.verdict == Verdict::Ok && !new.found.contains("without"), "{new:?}");
        let usual = line("6.1.0-18-amd64", UplinkKind::Socket);
        assert!(usual.verdict == Verdict::Ok && usual.found.contains("without large UDP"), "{usual:?}");
        assert_eq!(line("5.4.0", UplinkKind::Socket).verdict, Verdict::Warning);
        assert_eq!(line("5.15.0", UplinkKind::AfPacket).verdict, Verdict::Problem);
    }

    #[test]
    fn what_is_missing_in_the_kernel_is_said() {
        let (_folder, bare) = machine_with(&[("proc/net/protocols", "protocol size\nUDP 1 2\n")]);
        assert_eq!(tun(&bare).verdict, Verdict::Problem);
        assert_eq!(bpf(&bare, &Config::default()).verdict, Verdict::Warning);
        let (_folder, full) = machine_with(&[
            ("proc/net/protocols", "protocol size\nXDP 1 2\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
            ("dev/net/tun", ""),
            ("proc/cpuinfo", "flags\t\t: fpu ssse3 sse4_1 sse4_2 popcnt\n"),
        ]);
        let mut config = Config::default();
        config.uplink.kind = UplinkKind::AfXdp;
        assert_eq!(bpf(&full, &config).verdict, Verdict::Ok);
        assert_eq!((tun(&full).verdict, processor(&full).verdict), (Verdict::Ok, Verdict::Ok));
        assert_eq!(
            (bpf(&bare, &config).verdict, processor(&bare).verdict),
            (Verdict::Problem, Verdict::Problem)
        );
    }
}
