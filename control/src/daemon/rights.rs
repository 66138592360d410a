//! The rights that weftd needs, looked at before anything is made.

use std::fs;

/// The capabilities, by their bit (linux/capability.h): to make interfaces, to open packet sockets, to enter the pods'
/// network namespaces.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN")];

/// The needed capabilities that this process does not have; none where the kernel does not say, and then the step that
/// needs one will.
pub(super) fn missing() -> Vec<&'static str> {
    fs::read_to_string("/proc/self/status").map_or_else(|_| Vec::new(), |status| missing_in(&status))
}

fn missing_in(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Vec::new();
    };
    NEEDED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_right_is_named() {
        assert_eq!(missing_in("CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(missing_in("CapEff:\t0000000000201000\n"), ["CAP_NET_RAW"]);
        assert_eq!(missing_in("CapEff:\t0\n"), ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"]);
        assert_eq!(missing_in("CapEff:\tx\n"), Vec::<&str>::new());
    }
}
