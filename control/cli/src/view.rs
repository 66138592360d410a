//! How an answer reaches the reader: in which form, once or again and again.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio::time::MissedTickBehavior;
use weft_api::{Client, ClientError, ErrorCode};

use crate::Failure;
use crate::args::Output;
use crate::table::printable;

/// Clears the screen and begins at its top (ECMA-48: ED, CUP).
const REDRAW: &str = "\x1b[2J\x1b[H";

/// The form of tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// With the further columns.
    pub(crate) wide: bool,
    /// With headings.
    pub(crate) headings: bool,
}

/// What can be printed for people.
pub(crate) trait Show {
    /// Lines, each ended.
    fn show(&self, form: Form) -> String;

    /// The same with what has happened in the `seconds` since an earlier answer.
    fn show_since(&self, form: Form, _earlier: &Self, _seconds: f64) -> String {
        self.show(form)
    }
}

/// Whether the reader wants more.
enum Reader {
    Reads,
    HasSeenEnough,
}

/// How answers are to be printed.
pub(crate) struct View {
    pub(crate) output: Output,
    pub(crate) headings: bool,
    /// Again and again, at this interval.
    pub(crate) watch: Option<Duration>,
}

impl View {
    fn form(&self) -> Form {
        Form { wide: self.output == Output::Wide, headings: self.headings }
    }

    /// Asks and prints, once or again and again.
    pub(crate) async fn read<T: Serialize + Show>(
        &self,
        client: &Client,
        ask: impl AsyncFn(&Client) -> Result<T, Failure>,
    ) -> Result<(), Failure> {
        match self.watch {
            None => self.print(&ask(client).await?),
            Some(interval) => self.watch(client, interval, ask).await,
        }
    }

    /// Prints one answer.
    pub(crate) fn print<T: Serialize + Show>(&self, answer: &T) -> Result<(), Failure> {
        let text = match self.output {
            Output::Table | Output::Wide => answer.show(self.form()),
            Output::Json => serde_json::to_string_pretty(answer).map_err(Failure::failed)? + "\n",
        };
        write(&text).map(drop)
    }

    /// Until Ctrl-C, or until nobody reads any more. A daemon that goes away is waited for.
    async fn watch<T: Serialize + Show>(
        &self,
        client: &Client,
        interval: Duration,
        ask: impl AsyncFn(&Client) -> Result<T, Failure>,
    ) -> Result<(), Failure> {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut rounds = tokio::time::interval(interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut earlier: Option<(T, Instant)> = None;
        let (mut answered, mut missing) = (false, false);
        loop {
            let round = async {
                rounds.tick().await;
                ask(client).await
            };
            let answer = tokio::select! {
                _ = &mut interrupted => return Ok(()),
                answer = round => answer,
            };
            match answer {
                Ok(answer) => {
                    if std::mem::take(&mut missing) {
                        note("weftd is back");
                    }
                    let now = Instant::now();
                    if let Reader::HasSeenEnough = write(&self.round(&answer, earlier.as_ref(), now)?)? {
                        return Ok(());
                    }
                    earlier = Some((answer, now));
                    answered = true;
                }
                // Before the first answer a wrong socket is more likely than a restart.
                Err(failure) if failure.may_pass && answered => {
                    if !missing {
                        note(&format!("{}; waiting for it", failure.message));
                    }
                    // Counters begin anew with the next daemon.
                    (earlier, missing) = (None, true);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// One round's text: for programs a line of JSON; for people drawn in the same place on a terminal, and elsewhere a
    /// block that begins with the time.
    fn round<T: Serialize + Show>(
        &self,
        answer: &T,
        earlier: Option<&(T, Instant)>,
        now: Instant,
    ) -> Result<String, Failure> {
        if self.output == Output::Json {
            return Ok(serde_json::to_string(answer).map_err(Failure::failed)? + "\n");
        }
        let shown = match earlier {
            Some((earlier, then)) => answer.show_since(self.form(), earlier, (now - *then).as_secs_f64()),
            None => answer.show(self.form()),
        };
        let time = time();
        Ok(if io::stdout().is_terminal() {
            format!("{REDRAW}{time}\n\n{shown}")
        } else {
            format!("--- {time}\n{shown}")
        })
    }
}

/// Whether an error is one that a daemon makes that ends or starts.
pub(crate) fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Api(error) => error.code == ErrorCode::NotReady,
        ClientError::Broken { .. } | ClientError::Timeout { .. } => true,
        error => error.is_unreachable(),
    }
}

/// The time of day, by RFC 3339.
fn time() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Says something beside the answers.
fn note(text: &str) {
    // Nobody is left to be told.
    let _ = writeln!(io::stderr(), "weft: {}: {}", time(), printable(text));
}

/// A reader that has seen enough (`weft stats | head -1`) is no failure.
fn write(text: &str) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::HasSeenEnough),
        Err(error) => Err(Failure::failed(format!("the output can't be written: {error}"))),
    }
}

/// Prints text that is no answer, such as a script.
pub(crate) fn print_text(text: &str) -> Result<(), Failure> {
    write(text).map(drop)
}
