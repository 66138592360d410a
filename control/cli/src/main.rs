//! `weft`: the command line. A client of weftd's control API, and nothing more; `args` says what there is to say,
//! `show` how the answers look.

mod args;
mod purge;
mod show;
mod table;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde::Serialize;
use weft_api::{Client, ClientError};

use args::{Cli, Command, NodeCommand, Output, PodCommand};
use show::Show;
use table::printable;

/// How long `weft version` waits for the daemon, which it can do without.
const VERSION_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a command has no success, and the exit code that says so.
pub(crate) struct Failure {
    message: String,
    code: String,
    exit: u8,
}

impl Failure {
    /// The daemon, or this program, refused or failed.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { message: message.to_string(), code: "failed".to_owned(), exit: 1 }
    }
    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { message: message.to_string(), code: "usage".to_owned(), exit: 2 }
    }

    fn print(&self, output: Output) {
        let text = match output {
            // A message of several lines is this program's own.
            Output::Table => {
                let lines: Vec<String> = self.message.trim_end().lines().map(printable).collect();
                format!("weft: {}\n", lines.join("\n"))
            }
            Output::Json => {
                format!("{}\n", serde_json::json!({ "error": self.message.trim_end(), "code": self.code }))
            }
        };
        // Nobody is left to be told.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match &error {
            ClientError::Api(api) => {
                let code = serde_json::to_value(api.code).ok();
                let code = code.as_ref().and_then(|code| code.as_str()).unwrap_or("unknown").to_owned();
                Self { message, code, exit: 1 }
            }
            _ if error.is_unreachable() => Self { message, code: "unreachable".to_owned(), exit: 3 },
            _ => Self { message, code: "no_answer".to_owned(), exit: 1 },
        }
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string();
        Self::usage(text.strip_prefix("error: ").unwrap_or(&text))
    }
}

/// The versions at both ends of the socket.
#[derive(Serialize)]
struct Versions {
    weft: &'static str,
    /// Null when there is no daemon to ask.
    weftd: Option<String>,
}

impl Show for Versions {
    fn show(&self) -> String {
        let weftd = self.weftd.as_deref().unwrap_or("not reachable");
        format!("weft   {}\nweftd  {}\n", self.weft, printable(weftd))
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(error),
    };
    let output = cli.output;
    let done = run(cli).and_then(|text| print(&text));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(output);
            ExitCode::from(failure.exit)
        }
    }
}

/// Help is no failure. A real one is JSON when JSON was asked for, as far as that can be seen in a line that can't
/// be read.
fn not_parsed(error: clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let json = words.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
        || words.iter().any(|word| word == "-ojson" || word == "-o=json" || word == "--output=json");
    if error.use_stderr() && json {
        let failure = Failure::from(error);
        failure.print(Output::Json);
        return ExitCode::from(failure.exit);
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn run(cli: Cli) -> Result<String, Failure> {
    let Cli { socket, output, command } = cli;
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
        return Ok(String::from_utf8_lossy(&script).into_owned());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    let text = runtime.block_on(ask(Client::new(socket), output, command));
    // Not to wait for a lookup or a connection that nobody needs any more.
    runtime.shutdown_background();
    text
}

async fn ask(client: Client, output: Output, command: Command) -> Result<String, Failure> {
    match command {
        Command::Status => form(output, &client.status().await?),
        Command::Pod(PodCommand::Add(args)) => {
            let spec = args.into_spec()?;
            form(output, &client.add_pod(&spec).await?)
        }
        Command::Pod(PodCommand::Del { name }) => {
            let pod = client.delete_pod(&name).await?;
            match output {
                Output::Json => form(output, &pod),
                Output::Table => Ok(format!("removed pod {}\n", printable(&pod.name))),
            }
        }
        Command::Pod(PodCommand::List) => form(output, &client.pods().await?),
        Command::Stats => form(output, &client.stats().await?),
        Command::Drops { all } => form(output, &client.drops(all).await?),
        Command::Node(NodeCommand::Purge { state_dir, host_port, yes }) => {
            form(output, &purge::run(&client, &state_dir, &host_port, yes).await?)
        }
        Command::Version => {
            let weftd = client.timeout(VERSION_TIMEOUT).index().await.ok().map(|index| index.version);
            form(output, &Versions { weft: env!("CARGO_PKG_VERSION"), weftd })
        }
        // Needs no daemon and was done before.
        Command::Completions { .. } => Ok(String::new()),
    }
}

fn form<T: Serialize + Show>(output: Output, answer: &T) -> Result<String, Failure> {
    match output {
        Output::Table => Ok(answer.show()),
        Output::Json => {
            let mut text = serde_json::to_string_pretty(answer).map_err(Failure::failed)?;
            text.push('\n');
            Ok(text)
        }
    }
}

/// A reader that has seen enough (`weft stats | head -1`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("the output can't be written: {error}")))
        }
        _ => Ok(()),
    }
}
