//! How ports are closed: their queues are taken from the workers first.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use futures_util::StreamExt;
use tracing::warn;
use weft_switch::drivers::{Native, Rx, Tx, delete_tap};
use weft_switch::types::PortId;
use weft_switch::worker::{Command, Queues};

use super::{Dataplane, Device, PATIENCE};

/// How many ports are closed at a time: the kernel waits for tens of milliseconds before a device is gone, of many at once no longer
/// than of one.
const CLOSE_AT_ONCE: usize = 64;

/// A port to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// Its number.
    pub id: PortId,
    /// A TAP's device goes too.
    pub delete: bool,
}

impl Dataplane {
    /// Takes ports away. The snapshot published last no longer names them.
    pub async fn remove(&mut self, ports: &[Closing]) {
        if ports.is_empty() {
            return;
        }
        let publication = self.publisher.publication();
        let deadline = Instant::now() + PATIENCE;
        while !self.publisher.passed(publication) {
            if Instant::now() > deadline {
                warn!(
                    "ports to be closed: a worker does not pass a burst boundary; their queues are taken away all the same"
                );
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        self.publisher.reclaim();
        // All are asked for before the first is waited for.
        let asked: Vec<_> = ports.iter().map(|port| (*port, self.ask_for_queues(port.id))).collect();
        let mut given_back = Vec::new();
        for (port, answers) in asked {
            let queues = gather(answers, deadline + PATIENCE).await;
            if queues.len() < self.workers.len() {
                // The number stays taken for ever: a worker may still have queues of it.
                warn!("port {}: a worker does not give its queues back", port.id);
                continue;
            }
            if let Some(side) = self.workers.first() {
                side.handle.learned().forget_port(port.id);
            }
            let device = self.ports.remove(&port.id).map(|record| record.device);
            given_back.push((port, queues, device));
        }
        let closing = given_back.into_iter().map(|(Closing { id, delete }, queues, device)| async move {
            // Closing may block, on a guest or on the kernel.
            match tokio::task::spawn_blocking(move || close(queues, device, delete)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("port {id}: {error}"),
                Err(error) => warn!("port {id}: closing it broke off: {error}"),
            }
        });
        futures_util::stream::iter(closing).buffer_unordered(CLOSE_AT_ONCE).collect::<()>().await;
    }

    /// Has each worker give back its queues of a port, and where they arrive.
    fn ask_for_queues(&self, id: PortId) -> Vec<Receiver<Queues<Native>>> {
        let ask = |side: &super::WorkerSide| {
            let (done, answer) = crossbeam_channel::bounded(1);
            side.handle.send(Command::Remove(id, done));
            answer
        };
        self.workers.iter().map(ask).collect()
    }
}

/// What the workers answer until then. An answer that is there counts, however late it is looked at.
pub(super) async fn gather<T: Send + 'static>(answers: Vec<Receiver<T>>, deadline: Instant) -> Vec<T> {
    // A timer would make a millisecond or two of what takes microseconds.
    let wait = move || answers.iter().filter_map(|answer| answer.recv_deadline(deadline).ok()).collect();
    tokio::task::spawn_blocking(wait).await.unwrap_or_default()
}

/// Closes what the workers have given back: queues first, then what they belong to.
fn close(queues: Vec<Queues<Native>>, device: Option<Device>, delete: bool) -> Result<(), String> {
    let (mut taps, mut others) = ((Vec::new(), Vec::new()), Vec::new());
    for given in queues {
        match (given.rx, given.tx) {
            (Some(Rx::Tap(rx)), Some(Tx::Tap(tx))) => {
                taps.0.push(rx);
                taps.1.push(tx);
            }
            other => others.push(other),
        }
    }
    drop(others);
    if delete {
        delete_tap(taps.0, taps.1).map_err(|e| format!("its TAP stays: {e}"))?;
    } else {
        drop(taps);
    }
    match device {
        Some(Device::Vhost(port)) => port.close(),
        Some(Device::Eth(mut port)) => port.close().map_err(|e| e.to_string())?,
        Some(Device::Queues) | None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_counts_when_the_time_is_up_and_what_is_gone_is_not_waited_for() {
        let (late, never) = crossbeam_channel::bounded(1);
        let (there, answer) = crossbeam_channel::bounded(1);
        let (gone, nobody) = crossbeam_channel::bounded::<i32>(1);
        there.send(7).unwrap();
        drop(gone);
        assert_eq!(gather(vec![never, answer], Instant::now()).await, [7]);
        assert!(gather(vec![nobody], Instant::now() + Duration::from_secs(3600)).await.is_empty());
        drop::<crossbeam_channel::Sender<i32>>(late);
    }
}
