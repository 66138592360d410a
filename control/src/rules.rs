//! What the node's kernel does with pods' packets that it forwards, kept as it should be: the rules of masquerading and of the
//! filter, forwarding itself, and the blackhole routes. They outlast weftd, as flannel's do, and a restart finds them as they
//! are; `weft node purge` removes them.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{info, warn};
use weft_node::{
    Error, Keeper, Looked, Rules, drop_blackhole_routes, enable_forwarding, put_blackhole_routes,
};

/// How long a look is waited for: others may have the tables for seconds, but a program that hangs holds nobody up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be kept.
pub struct Wanted {
    /// The rules.
    pub rules: Rules,
    /// Whether the node's own subnets have a route to nowhere.
    pub blackhole: bool,
    /// How often all of it is looked at.
    pub every: Duration,
    /// Where weftd keeps its state.
    pub state_dir: PathBuf,
}

/// What the keeper of the rules is at.
enum At {
    Rest(Keeper),
    /// Its programs run.
    Work(JoinHandle<(Keeper, Result<Looked, Error>)>),
}

/// Keeps it.
pub struct Keeping {
    wanted: Wanted,
    /// None once a look has broken off.
    at: Option<At>,
    /// Blackhole routes of before, of other subnets, are gone.
    settled: bool,
    problem: watch::Sender<Option<String>>,
}

impl Keeping {
    /// Nothing is done yet. What is wrong is told by `problem`.
    pub fn new(wanted: Wanted, problem: watch::Sender<Option<String>>) -> Self {
        let at = Some(At::Rest(Keeper::new(wanted.rules.clone())));
        Self { wanted, at, settled: false, problem }
    }

    /// Keeps other rules from now on.
    pub fn want(&mut self, rules: Rules) {
        self.at = Some(At::Rest(Keeper::new(rules.clone())));
        self.wanted.rules = rules;
        self.settled = false;
    }

    /// Looks again and again, for ever.
    pub async fn run(&mut self) {
        if !self.wanted.rules.any() && !self.wanted.blackhole {
            return std::future::pending().await;
        }
        let mut looks = tokio::time::interval(self.wanted.every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is at once.
        looks.tick().await;
        loop {
            looks.tick().await;
            self.look().await;
        }
    }

    /// Brings all of it into line, as far as that is possible.
    pub async fn look(&mut self) {
        let mut problems = Vec::new();
        if let Err(error) = self.look_at_rules().await {
            problems.push(format!("rules for pods' packets: {error}"));
        }
        problems.extend(self.forward());
        if let Err(error) = self.route_nowhere().await {
            problems.push(format!("blackhole route: {error}"));
        }
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        self.problem.send_if_modified(|said| {
            let changed = *said != problem;
            if let Some(problem) = problem.as_ref().filter(|_| changed) {
                warn!("{problem}");
            }
            *said = problem;
            changed
        });
    }

    async fn look_at_rules(&mut self) -> Result<(), String> {
        let Some(at) = self.at.take() else { return Ok(()) };
        let mut looking = match at {
            At::Rest(mut keeper) => {
                let state_dir = self.wanted.state_dir.clone();
                tokio::task::spawn_blocking(move || {
                    let looked = keeper.look(&state_dir);
                    (keeper, looked)
                })
            }
            At::Work(looking) => looking,
        };
        let Ok(ended) = timeout(PATIENCE, &mut looking).await else {
            self.at = Some(At::Work(looking));
            return Err(
                "iptables or nft does not come to an end; is another program holding the tables?".to_owned()
            );
        };
        // It breaks off only at the end of the daemon.
        let Ok((keeper, looked)) = ended else { return Ok(()) };
        self.at = Some(At::Rest(keeper));
        match looked.map_err(|error| error.to_string())? {
            Looked::Made if self.wanted.rules.any() => info!("the rules for pods' packets are in force"),
            Looked::Mended => {
                warn!("somebody had changed the rules for pods' packets: they are in force again")
            }
            Looked::Made | Looked::Whole => {}
        }
        Ok(())
    }

    /// Pods' packets are forwarded by the kernel at all.
    fn forward(&self) -> Vec<String> {
        let rules = &self.wanted.rules;
        let families =
            rules.pods.iter().filter(|_| rules.any()).map(|pods| matches!(pods.subnet, IpNet::V6(_)));
        let mut problems = Vec::new();
        for v6 in families {
            let setting = if v6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
            match enable_forwarding(v6) {
                Ok(true) => {}
                Ok(false) => problems.push(format!(
                    "the kernel does not forward pods' packets, and weftd may not change that: set {setting} to 1"
                )),
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems
    }

    async fn route_nowhere(&mut self) -> Result<(), Error> {
        let subnets = self.wanted.rules.pods.iter().map(|pods| pods.subnet);
        let wanted: Vec<IpNet> = subnets.filter(|_| self.wanted.blackhole).collect();
        if !wanted.is_empty() {
            put_blackhole_routes(&wanted).await?;
        }
        if !self.settled {
            drop_blackhole_routes(&wanted).await?;
            self.settled = true;
        }
        Ok(())
    }
}
