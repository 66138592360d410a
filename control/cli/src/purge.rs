//! `weft node purge`: takes away what weft left on a node. The only command that acts by itself, since it is for
//! when no daemon runs.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use weft_api::{Client, ClientError, DEFAULT_SOCKET};
use weft_config::config::{Config, DEFAULT_PATH};

use crate::Failure;
use crate::args::PurgeArgs;

/// What was taken away.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Network devices.
    pub(crate) devices: Vec<String>,
    /// Files.
    pub(crate) files: Vec<PathBuf>,
    /// Whether rules of masquerading and forwarding were there.
    pub(crate) rules: bool,
}

/// What is to go, and who must not run.
struct Plan {
    client: Client,
    state_dir: PathBuf,
    host_port: String,
}

impl Plan {
    /// By the command line, and where that says nothing by the node's weftd.toml.
    fn new(client: Client, args: &PurgeArgs) -> Result<Self, Failure> {
        let read = match &args.config {
            Some(path) => Config::load(path),
            None => Config::load_or_default(Path::new(DEFAULT_PATH)),
        };
        let config = match read {
            Ok(config) => config,
            // Whoever names all of it can do without.
            Err(_) if args.config.is_none() && args.state_dir.is_some() && args.host_port.is_some() => {
                Config::default()
            }
            Err(error) => {
                return Err(Failure::failed(format!(
                    "what weft has left can't be known, so nothing was removed: {error}\nmend the file, or say --state-dir and --host-port"
                )));
            }
        };
        let client = match client.socket() == Path::new(DEFAULT_SOCKET) {
            true => Client::new(config.control.socket),
            false => client,
        };
        Ok(Self {
            client,
            state_dir: args.state_dir.clone().unwrap_or(config.state.dir),
            host_port: args.host_port.clone().unwrap_or(config.host_port.name),
        })
    }
}

/// Purges the node. Refuses while a daemon has the socket, and asks a person unless told not to.
pub(crate) async fn run(client: Client, args: PurgeArgs) -> Result<Report, Failure> {
    let Plan { client, state_dir, host_port } = Plan::new(client, &args)?;
    refuse_if_running(&client).await?;
    if !args.yes && !confirmed(&state_dir, &host_port)? {
        return Err(Failure::failed("nothing was removed"));
    }
    let purged = weft_node::purge(&state_dir, &host_port).await.map_err(Failure::failed)?;
    Ok(Report { devices: purged.devices, files: purged.files, rules: purged.rules })
}

/// Any sign of life counts: a daemon that answers badly still owns its devices.
async fn refuse_if_running(client: &Client) -> Result<(), Failure> {
    match client.index().await {
        Err(ClientError::NoSocket(_) | ClientError::NobodyListens(_)) => Ok(()),
        Err(error) if error.is_unreachable() => {
            Err(Failure::failed(format!("whether weftd runs can't be seen, so nothing was removed: {error}")))
        }
        _ => Err(Failure::failed(format!(
            "weftd is running (socket {}): stop it before its node is purged",
            client.socket().display()
        ))),
    }
}

fn confirmed(state_dir: &Path, host_port: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("nobody is there to be asked: say --yes to purge without a question"));
    }
    let question =
        format!("Remove weft's devices ({host_port} among them) and {}? [y/N] ", state_dir.display());
    let mut answer = String::new();
    let asked =
        io::stderr().write_all(question.as_bytes()).and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(Failure::failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
