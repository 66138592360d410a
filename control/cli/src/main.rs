//! `weft`: the command line. A client of weftd's control API, and nothing more; `args` says what there is to say, `view` how
//! answers are printed and watched, `show` how they look.

mod args;
mod check;
mod cni;
mod config;
mod purge;
mod show;
mod table;
mod view;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde::Serialize;
use weft_api::{Client, ClientError};

use args::{
    Cli, Command, FdbCommand, NeighCommand, NodeCommand, Output, PinsCommand, PodCommand, PortCommand,
    RouteCommand, VtepCommand,
};
use table::printable;
use view::{Form, Show, View};

/// How long `weft version` waits for the daemon, which it can do without.
const VERSION_TIMEOUT: Duration = Duration::from_secs(3);

/// The code of a failure that is the answer.
const FOUND: &str = "found";

/// Why a command has no success, and the exit code that says so.
pub(crate) struct Failure {
    message: String,
    code: String,
    exit: u8,
    /// It may be another way in a moment, such as while the daemon starts.
    may_pass: bool,
}

impl Failure {
    /// The daemon, or this program, refused or failed.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::of("failed", message, 1)
    }
    /// There is no such thing.
    pub(crate) fn not_found(message: impl Display) -> Self {
        Self::of("not_found", message, 1)
    }
    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::of("usage", message, 2)
    }

    /// What was looked for is there: mistakes in a file, differences. Each line of the message says all.
    pub(crate) fn found(message: impl Display) -> Self {
        Self::of(FOUND, message, 1)
    }

    fn of(code: &str, message: impl Display, exit: u8) -> Self {
        Self { message: message.to_string(), code: code.to_owned(), exit, may_pass: false }
    }

    fn print(&self, output: Output) {
        if self.code == FOUND && self.message.is_empty() {
            return;
        }
        let text = match output {
            Output::Table | Output::Wide if self.code == FOUND => {
                self.message.lines().map(|line| printable(line) + "\n").collect()
            }
            // A message of several lines is this program's own.
            Output::Table | Output::Wide => {
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
        let failure = match &error {
            ClientError::Api(api) => {
                let code = serde_json::to_value(api.code).ok();
                Self::of(code.as_ref().and_then(|code| code.as_str()).unwrap_or("unknown"), &error, 1)
            }
            _ if error.is_unreachable() => Self::of("unreachable", &error, 3),
            _ => Self::of("no_answer", &error, 1),
        };
        Self { may_pass: view::may_pass(&error), ..failure }
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
    fn show(&self, _: Form) -> String {
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
    match run(cli) {
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
    if let Some(hint) = args::hint(&error, &words) {
        // Nobody is left to be told.
        let _ = writeln!(io::stderr(), "\n{hint}");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { socket, output, watch, no_headers, command } = cli;
    if watch.is_some() && !command.reads() {
        return Err(args::usage(ErrorKind::ArgumentConflict, "--watch is for commands that only read").into());
    }
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
        return view::print_text(&String::from_utf8_lossy(&script));
    }
    let view = View { output, headings: !no_headers, watch };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    let done = runtime.block_on(carry_out(Client::new(socket), &view, command));
    // Not to wait for a lookup or a connection that nobody needs any more.
    runtime.shutdown_background();
    done
}

impl Command {
    /// It changes nothing, and says something else when something else has changed it.
    fn reads(&self) -> bool {
        match self {
            Self::Pod { command } => !matches!(command, Some(PodCommand::Add(_) | PodCommand::Del { .. })),
            Self::Config(command) => command.reads(),
            Self::Check(_) | Self::Cni(_) | Self::Node(_) | Self::Completions { .. } | Self::Version => false,
            _ => true,
        }
    }
}

async fn carry_out(client: Client, view: &View, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status => view.read(&client, async |c: &Client| Ok(c.status().await?)).await,
        Command::Port { command: None | Some(PortCommand::List) } => {
            view.read(&client, async |c: &Client| Ok(c.ports(None).await?)).await
        }
        Command::Port { command: Some(PortCommand::Show { name }) } => {
            let ask = async |c: &Client| {
                c.ports(Some(&name)).await?.ports.pop().ok_or_else(|| no_such("port", &name))
            };
            view.read(&client, ask).await
        }
        Command::Pod { command } => pod(client, view, command.unwrap_or(PodCommand::List)).await,
        Command::Fdb { command, filter } => {
            let filter = command.map_or(filter, |FdbCommand::List(filter)| filter);
            let ask = async |c: &Client| {
                let found = c.fdb(filter.port.as_deref(), filter.mac).await?;
                let filters = [("port", filter.port.clone()), ("mac", filter.mac.map(|mac| mac.to_string()))];
                matched(view, found.entries.is_empty(), filters)?;
                Ok(found)
            };
            view.read(&client, ask).await
        }
        Command::Neigh { command, filter } => {
            let filter = command.map_or(filter, |NeighCommand::List(filter)| filter);
            let ask = async |c: &Client| {
                let found = c.neighbours(filter.address).await?;
                let none = found.entries.is_empty() && found.conflicts.is_empty();
                matched(view, none, [("address", filter.address.map(|address| address.to_string()))])?;
                Ok(found)
            };
            view.read(&client, ask).await
        }
        Command::Pins { command, filter } => {
            let filter = command.map_or(filter, |PinsCommand::List(filter)| filter);
            let ask = async |c: &Client| {
                let found = c.pins(filter.address, filter.limit as usize).await?;
                let address = filter.address.map(|address| address.to_string());
                matched(view, found.entries.is_empty(), [("address", address)])?;
                Ok(found)
            };
            view.read(&client, ask).await
        }
        Command::Vtep { command, filter } => {
            let filter = command.map_or(filter, |VtepCommand::List(filter)| filter);
            let ask = async |c: &Client| {
                let found = c.vteps(filter.node.as_deref()).await?;
                matched(view, found.vteps.is_empty(), [("node", filter.node.clone())])?;
                Ok(found)
            };
            view.read(&client, ask).await
        }
        Command::Route { command: None | Some(RouteCommand::List) } => {
            view.read(&client, async |c: &Client| Ok(c.routes().await?)).await
        }
        Command::Route { command: Some(RouteCommand::Get { address }) } => {
            let ask = async |c: &Client| {
                let found = c.route_to(address).await?;
                let missing = "weft routes to no such address, or has no host port yet; see weft route";
                if found.routes.is_empty() {
                    return Err(Failure::not_found(format!("no route to {address}: {missing}")));
                }
                Ok(found)
            };
            view.read(&client, ask).await
        }
        Command::Flow { seconds, limit } => {
            view.read(&client, async |c: &Client| Ok(c.flows(seconds, limit as usize).await?)).await
        }
        Command::Stats => view.read(&client, async |c: &Client| Ok(c.stats().await?)).await,
        Command::Drops { all } => view.read(&client, async |c: &Client| Ok(c.drops(all).await?)).await,
        Command::Worker { .. } => view.read(&client, async |c: &Client| Ok(c.workers().await?)).await,
        Command::Config(command) => config::run(&client, view, command).await,
        Command::Check(args) => {
            let report = check::run(client, args).await?;
            view.print(&report)?;
            // What there is to say has been said.
            if report.is_fit() { Ok(()) } else { Err(Failure::found("")) }
        }
        Command::Cni(command) => view.print(&cni::run(command)?),
        Command::Node(NodeCommand::Purge(args)) => view.print(&purge::run(client, args).await?),
        Command::Version => {
            let weftd = client.timeout(VERSION_TIMEOUT).index().await.ok().map(|index| index.version);
            view.print(&Versions { weft: env!("CARGO_PKG_VERSION"), weftd })
        }
        // Needs no daemon and was done before.
        Command::Completions { .. } => Ok(()),
    }
}

async fn pod(client: Client, view: &View, command: PodCommand) -> Result<(), Failure> {
    match command {
        PodCommand::List => view.read(&client, async |c: &Client| Ok(c.pods().await?)).await,
        PodCommand::Show { name } => {
            let ask = async |c: &Client| c.pod(&name).await?.pods.pop().ok_or_else(|| no_such("pod", &name));
            view.read(&client, ask).await
        }
        PodCommand::Add(args) => {
            let spec = args.into_spec()?;
            view.print(&client.add_pod(&spec).await?)
        }
        PodCommand::Del { name } => {
            let pod = client.delete_pod(&name).await?;
            match view.output {
                Output::Json => view.print(&pod),
                Output::Table | Output::Wide => {
                    view::print_text(&format!("removed pod {}\n", printable(&pod.name)))
                }
            }
        }
    }
}

/// Refuses an empty list that a filter has made: it looks like an empty switch. Whoever watches may wait for the first.
fn matched<const N: usize>(
    view: &View,
    none: bool,
    filters: [(&str, Option<String>); N],
) -> Result<(), Failure> {
    let given: Vec<String> =
        filters.into_iter().filter_map(|(name, value)| Some(format!("--{name} {}", value?))).collect();
    if !none || given.is_empty() || view.watch.is_some() {
        return Ok(());
    }
    Err(Failure::not_found(format!("nothing matches {}", given.join(" "))))
}

fn no_such(what: &str, name: &str) -> Failure {
    Failure::not_found(format!("there is no {what} {name} on this node: weft {what} lists what there is"))
}
