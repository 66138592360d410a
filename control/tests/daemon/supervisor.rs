//! What systemd is told.

use std::ffi::OsStr;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;

use crate::lab::{Lab, PATIENCE, Weftd};

#[test]
fn a_supervisor_hears_that_weftd_is_ready_reads_its_files_lives_and_ends() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let next = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).expect("a word");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    // The next one that is no sign of life.
    let news = || loop {
        match next() {
            said if said == "WATCHDOG=1" => {}
            said => return said,
        }
    };
    let name = format!("NOTIFY_SOCKET={}", path.display());
    let before = ["env", &name, "WATCHDOG_USEC=5000000"].map(OsStr::new);
    let weftd = Weftd::spawn(&lab, &before, &lab.path("weftd.toml")).ready();
    assert_eq!(news(), "READY=1");
    assert_eq!(next(), "WATCHDOG=1");
    weftd.signal(Signal::SIGHUP);
    assert!(news().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(news(), "READY=1", "the file is read");
    weftd.stop();
    assert_eq!(news(), "STOPPING=1");
}
