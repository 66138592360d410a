//! Captures as libpcap and DPDK's `net_pcap` read them: Ethernet, in the classic format.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Of a file with microseconds, in the byte order of who wrote it.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Of one with nanoseconds.
const MAGIC_NS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;
/// The longest frame that is believed: a limit on what a broken file makes us read.
const LONGEST: u32 = 1 << 18;

/// Writes frames, one microsecond apart; how many there were.
pub fn write(path: &Path, frames: impl IntoIterator<Item = Vec<u8>>) -> io::Result<u32> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for word in [MAGIC, 2 | 4 << 16, 0, 0, LONGEST, ETHERNET] {
        file.write_all(&word.to_le_bytes())?;
    }
    let mut count = 0u32;
    for frame in frames {
        let len = frame.len() as u32;
        for word in [count / 1_000_000, count % 1_000_000, len, len] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame)?;
        count += 1;
    }
    file.flush()?;
    Ok(count)
}

/// The frames of a file, one after the other.
#[derive(Debug)]
pub struct Frames {
    file: BufReader<File>,
    swapped: bool,
}

/// Opens a file.
pub fn read(path: &Path) -> io::Result<Frames> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut header = [0; 24];
    file.read_exact(&mut header)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let swapped = match word(0) {
        MAGIC | MAGIC_NS => false,
        magic if [MAGIC, MAGIC_NS].contains(&magic.swap_bytes()) => true,
        _ => return Err(wrong(format!("{} is no capture in the classic format", path.display()))),
    };
    let link = if swapped { word(20).swap_bytes() } else { word(20) };
    if link & 0xffff != ETHERNET {
        return Err(wrong(format!("{} has no Ethernet frames (link type {link})", path.display())));
    }
    Ok(Frames { file, swapped })
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Frames {
    /// The next frame; `None` at the end.
    fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut header = [0; 16];
        let mut have = 0;
        while have < header.len() {
            match self.file.read(&mut header[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(wrong("the capture ends within a frame".to_owned())),
                count => have += count,
            }
        }
        let len = [header[8], header[9], header[10], header[11]];
        let len = if self.swapped { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) };
        if len > LONGEST {
            return Err(wrong(format!("the capture has a frame of {len} bytes")));
        }
        let mut frame = vec![0; len as usize];
        self.file.read_exact(&mut frame)?;
        Ok(Some(frame))
    }
}

impl Iterator for Frames {
    type Item = io::Result<Vec<u8>>;
    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let frames = vec![vec![1; 60], vec![2; 1514], vec![3; 60]];
        assert_eq!(write(&path, frames.clone()).unwrap(), 3);
        assert_eq!(read(&path).unwrap().collect::<io::Result<Vec<_>>>().unwrap(), frames);
    }

    #[test]
    fn what_is_cut_off_or_no_capture_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        write(&path, [vec![1; 60]]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let frames = read(&path).and_then(|frames| frames.collect::<io::Result<Vec<_>>>());
            assert_eq!(frames.ok(), (len == 24).then(Vec::new), "{len} bytes");
        }
        std::fs::write(&path, vec![7; 100]).unwrap();
        assert!(read(&path).is_err());
    }
}
