//! A bar on standard error while a trial runs, if that is a terminal.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::Live;

/// How often it is drawn.
const BEAT: Duration = Duration::from_millis(100);

/// Waits for an answer and shows meanwhile how far it should be. `None` if nobody will answer any more.
pub(crate) fn wait<T>(answer: &Receiver<T>, what: &str, lasts: Duration, live: &Live) -> Option<T> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(millis(lasts)), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    let begin = Instant::now();
    let mut last = (begin, 0, 0);
    let answer = loop {
        match answer.recv_timeout(BEAT) {
            Ok(answer) => break Some(answer),
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = (Instant::now(), live.sent.load(Relaxed), live.received.load(Relaxed));
        let passed = now.0.duration_since(last.0).as_secs_f64();
        let mega = |new: u64, old: u64| new.saturating_sub(old) as f64 / passed / 1e6;
        bar.set_message(format!("{:.3} Mpps out, {:.3} in", mega(now.1, last.1), mega(now.2, last.2)));
        bar.set_position(millis(begin.elapsed()).min(millis(lasts)));
        last = now;
    };
    bar.finish_and_clear();
    answer
}
