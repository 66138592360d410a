//! flanneld's flags, each with one dash or two, and the variables `FLANNELD_…` that stand for them.

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, FromArgMatches};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// What was given of flanneld's flags. What was not given is none, and flanneld's default holds.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "flanneld's options", mut_args = without_empty_variable)]
pub struct Flags {
    /// etcd's members, with commas
    #[arg(long, env = "FLANNELD_ETCD_ENDPOINTS", value_delimiter = ',', value_name = "URLS")]
    pub etcd_endpoints: Option<Vec<String>>,
    /// What all keys in etcd begin with
    #[arg(long, env = "FLANNELD_ETCD_PREFIX")]
    pub etcd_prefix: Option<String>,
    /// The key of etcd-certfile
    #[arg(long, env = "FLANNELD_ETCD_KEYFILE", value_name = "FILE", value_parser = file())]
    pub etcd_keyfile: Option<PathBuf>,
    /// The certificate that etcd is shown
    #[arg(long, env = "FLANNELD_ETCD_CERTFILE", value_name = "FILE", value_parser = file())]
    pub etcd_certfile: Option<PathBuf>,
    /// Who may have signed etcd's certificate
    #[arg(long, env = "FLANNELD_ETCD_CAFILE", value_name = "FILE", value_parser = file())]
    pub etcd_cafile: Option<PathBuf>,
    /// The user name for etcd
    #[arg(long, env = "FLANNELD_ETCD_USERNAME", value_name = "NAME")]
    pub etcd_username: Option<String>,
    /// The password for etcd
    #[arg(long, env = "FLANNELD_ETCD_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub etcd_password: Option<String>,
    // No commas between several: an expression may have its own.
    /// The underlay's interface, by its name or an address; may be repeated, the first that there is counts
    #[arg(long, env = "FLANNELD_IFACE", value_name = "NAME")]
    pub iface: Option<Vec<String>>,
    /// The same by a regular expression, for addresses first and then for names; after iface
    #[arg(long, env = "FLANNELD_IFACE_REGEX", value_name = "REGEX")]
    pub iface_regex: Option<Vec<String>>,
    /// The interface by which the kernel reaches this address
    #[arg(long, env = "FLANNELD_IFACE_CAN_REACH", value_name = "ADDRESS")]
    pub iface_can_reach: Option<IpAddr>,
    /// The IPv4 address that peers send to
    #[arg(long, env = "FLANNELD_PUBLIC_IP", value_name = "ADDRESS")]
    pub public_ip: Option<Ipv4Addr>,
    /// The IPv6 address that peers send to
    #[arg(long, env = "FLANNELD_PUBLIC_IPV6", value_name = "ADDRESS")]
    pub public_ipv6: Option<Ipv6Addr>,
    /// The file for CNI plugins
    #[arg(long, env = "FLANNELD_SUBNET_FILE", value_name = "FILE")]
    pub subnet_file: Option<PathBuf>,
    /// The network's configuration where Kubernetes is the store
    #[arg(long, env = "FLANNELD_NET_CONFIG_PATH", value_name = "FILE")]
    pub net_config_path: Option<PathBuf>,
    /// Minutes before a lease's end at which it is renewed
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_RENEW_MARGIN", value_name = "MINUTES",
          value_parser = clap::value_parser!(u32).range(1..=1439))]
    pub subnet_lease_renew_margin: Option<u32>,
    /// Masquerade what leaves the pod network
    #[arg(long, env = "FLANNELD_IP_MASQ", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub ip_masq: Option<bool>,
    /// Kubernetes is the store, in place of etcd
    #[arg(long, env = "FLANNELD_KUBE_SUBNET_MGR", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub kube_subnet_mgr: Option<bool>,
    /// The Kubernetes API's address
    #[arg(long, env = "FLANNELD_KUBE_API_URL", value_name = "URL")]
    pub kube_api_url: Option<String>,
    /// The Kubernetes API's address and credentials
    #[arg(long, env = "FLANNELD_KUBECONFIG_FILE", value_name = "FILE", value_parser = file())]
    pub kubeconfig_file: Option<PathBuf>,
    /// What the annotations of nodes begin with
    #[arg(long, env = "FLANNELD_KUBE_ANNOTATION_PREFIX", value_name = "PREFIX")]
    pub kube_annotation_prefix: Option<String>,
    /// Tell Kubernetes that the node's network is there
    #[arg(long, env = "FLANNELD_SET_NODE_NETWORK_UNAVAILABLE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub set_node_network_unavailable: Option<bool>,
    /// Where /healthz and /readyz are
    #[arg(long, env = "FLANNELD_HEALTHZ_IP", value_name = "ADDRESS")]
    pub healthz_ip: Option<IpAddr>,
    /// The port of /healthz and /readyz; 0: nowhere
    #[arg(long, env = "FLANNELD_HEALTHZ_PORT", value_name = "PORT")]
    pub healthz_port: Option<u16>,
    /// A route to nowhere for the node's own subnet
    #[arg(long, env = "FLANNELD_IP_BLACKHOLE_ROUTE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub ip_blackhole_route: Option<bool>,
    /// Seconds between two looks at masquerading rules
    #[arg(long, env = "FLANNELD_IPTABLES_RESYNC", value_name = "SECONDS")]
    pub iptables_resync: Option<u32>,
    /// Let pods' packets through the node's filter
    #[arg(long, env = "FLANNELD_IPTABLES_FORWARD_RULES", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub iptables_forward_rules: Option<bool>,
    /// Masquerade without random ports
    #[arg(long, env = "FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub ip_masq_fully_random_disable: Option<bool>,
    /// How much is logged: from 4 on as with log.level = "debug"
    #[arg(long = "v", env = "FLANNELD_V", value_name = "NUMBER")]
    pub v: Option<i32>,
    /// Without meaning here
    #[arg(long, env = "FLANNELD_VMODULE", hide = true)]
    pub vmodule: Option<String>,
    /// Without meaning here
    #[arg(long = "log_backtrace_at", env = "FLANNELD_LOG_BACKTRACE_AT", hide = true)]
    pub log_backtrace_at: Option<String>,
}

/// A variable that is empty says nothing, as if it were not there.
fn without_empty_variable(arg: clap::Arg) -> clap::Arg {
    let ours = arg.get_env().filter(|name| name.to_string_lossy().starts_with("FLANNELD_"));
    match ours.and_then(std::env::var_os).is_some_and(|value| value.is_empty()) {
        true => arg.env(None::<&str>),
        false => arg,
    }
}

/// Flags whose empty text says to flanneld what their absence says. An empty prefix of keys is one, so it is none of these.
const NOTHING_IF_EMPTY: [&str; 13] = [
    "etcd-endpoints",
    "iface",
    "iface-regex",
    "iface-can-reach",
    "public-ip",
    "public-ipv6",
    "subnet-file",
    "net-config-path",
    "kube-api-url",
    "kube-annotation-prefix",
    "healthz-ip",
    "vmodule",
    "log_backtrace_at",
];

/// What flanneld reads from its environment beside its flags, and weftd does not, with what is said where it is set.
const VARIABLES_WITHOUT_EFFECT: [(&str, &str); 3] = [
    (
        "EVENT_QUEUE_DEPTH",
        "EVENT_QUEUE_DEPTH has no effect: weftd takes the whole cluster over after a change, and has no queue of events",
    ),
    (
        "CONT_WHEN_CACHE_NOT_READY",
        "CONT_WHEN_CACHE_NOT_READY has no effect: where the store does not answer, weftd starts with what it said last, and waits for \
         it where it never has",
    ),
    ("WIREGUARD_KEY_FILE", "WIREGUARD_KEY_FILE has no effect: weft has no backend wireguard"),
];

/// As Go's `strconv.ParseBool` has it.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

/// A file's name, or an empty text: that says nothing to Go's flags, and manifests leave it where there is no file.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Flags {
    /// Whether any was given but those about the log: then weftd is started as flanneld is.
    pub fn any(&self) -> bool {
        let Self { v, vmodule, log_backtrace_at, .. } = self.clone();
        *self != Self { v, vmodule, log_backtrace_at, ..Self::default() }
    }

    /// A line for each flag that was given and has no effect here, and for each variable of flanneld's that is no flag, and why.
    pub fn without_effect(&self, variable: impl Fn(&str) -> Option<OsString>) -> Vec<&'static str> {
        let mut lines = Vec::new();
        let mut say = |given: bool, line| {
            if given {
                lines.push(line);
            }
        };
        say(self.vmodule.is_some(), "--vmodule has no effect: set log.level, or WEFT_LOG for parts of weftd");
        say(
            self.log_backtrace_at.is_some(),
            "--log_backtrace_at has no effect: weftd's log has no line numbers",
        );
        for (name, line) in VARIABLES_WITHOUT_EFFECT {
            say(variable(name).is_some_and(|value| !value.is_empty()), line);
        }
        lines
    }
}

/// The command line with two dashes in front of each of these flags that has one: Go does not tell them apart, and clap
/// does. Those that say nothing are left out. What follows `--` is left alone.
pub fn with_two_dashes(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let known = Flags::augment_args(clap::Command::new("flanneld"));
    // Of all of flanneld's flags `version` alone is clap's own here.
    let is_known =
        |name: &str| name == "version" || known.get_arguments().any(|arg| arg.get_long() == Some(name));
    let mut over = false;
    let mut all = Vec::new();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str().filter(|_| !over) else {
            all.push(arg);
            continue;
        };
        over = text == "--";
        let flag = text.strip_prefix("--").or(text.strip_prefix('-')).unwrap_or_default();
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let mut empty =
            || value == Some("") || (value.is_none() && args.next_if(|next| next.is_empty()).is_some());
        if NOTHING_IF_EMPTY.contains(&name) && empty() {
            continue;
        }
        all.push(if is_known(name) { format!("--{flag}").into() } else { arg });
    }
    all
}

/// Reads these alone, as `flanneld` would be called; for tests and for checks of a manifest.
///
/// # Errors
/// What is wrong, as clap says it.
pub fn parse<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Flags, clap::Error> {
    let command = Flags::augment_args(clap::Command::new("flanneld"));
    let all = std::iter::once("flanneld").chain(args).map(OsString::from);
    Flags::from_arg_matches(&command.try_get_matches_from(with_two_dashes(all))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_as_manifests_have_them() {
        let flags =
            parse(["--ip-masq", "-kube-subnet-mgr=false", "-iface=eth0", "--iface", "192.0.2.1", "-v", "4"])
                .unwrap();
        assert_eq!((flags.ip_masq, flags.kube_subnet_mgr, flags.v), (Some(true), Some(false), Some(4)));
        assert_eq!(flags.iface, Some(vec!["eth0".to_owned(), "192.0.2.1".to_owned()]));
        let flags = parse([
            "-etcd-endpoints=https://a:2379,https://b:2379",
            "--etcd-prefix",
            "/x",
            "-healthz-port=8081",
        ]);
        let flags = flags.unwrap();
        assert_eq!(flags.etcd_endpoints.unwrap().len(), 2);
        assert_eq!((flags.etcd_prefix.as_deref(), flags.healthz_port), (Some("/x"), Some(8081)));
        assert!(!parse([]).unwrap().any());
    }

    #[test]
    fn an_interfaces_expression_is_one_whole() {
        let flags = parse([r"--iface-regex=10\.0\.\d{1,3}", "-iface-regex", "^eth[0,1]$", "--iface=a,b"]);
        let flags = flags.unwrap();
        assert_eq!(flags.iface_regex.unwrap(), [r"10\.0\.\d{1,3}", "^eth[0,1]$"]);
        assert_eq!(flags.iface.unwrap(), ["a,b"]);
    }

    #[test]
    fn what_is_empty_says_nothing() {
        let text = [
            "--iface=",
            "-public-ip=",
            "--public-ipv6",
            "",
            "--iface-can-reach=",
            "-healthz-ip",
            "",
            "--subnet-file=",
            "--iface-regex=",
            "--etcd-endpoints=",
        ];
        let flags = parse(text).unwrap();
        assert_eq!(flags, Flags::default());
        let flags = parse(["--iface=", "--iface=eth0", "--etcd-prefix=", "--etcd-cafile="]).unwrap();
        assert_eq!((flags.iface, flags.etcd_prefix), (Some(vec!["eth0".to_owned()]), Some(String::new())));
        // To Go an empty number is wrong too.
        assert!(parse(["--healthz-port="]).is_err());
        assert_eq!(with_two_dashes(["--", "--iface=", ""].map(OsString::from).into_iter()).len(), 3);
    }

    #[test]
    fn an_empty_variable_says_nothing() {
        const INNER: &str = "WEFT_TEST_VARIABLES";
        if std::env::var_os(INNER).is_some() {
            assert_eq!(parse([]).unwrap(), Flags { ip_masq: Some(true), ..Flags::default() });
            return;
        }
        // A process's variables are its threads' in common: another process has these.
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "flags::tests::an_empty_variable_says_nothing"]).env(INNER, "1");
        for name in
            ["PUBLIC_IP", "IFACE", "ETCD_PREFIX", "ETCD_ENDPOINTS", "V", "HEALTHZ_PORT", "IP_BLACKHOLE_ROUTE"]
        {
            again.env(format!("FLANNELD_{name}"), "");
        }
        let output = again.env("FLANNELD_IP_MASQ", "true").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    fn a_text_that_may_be_empty_is_a_flag() {
        let known = Flags::augment_args(clap::Command::new("flanneld"));
        for name in NOTHING_IF_EMPTY {
            assert!(known.get_arguments().any(|arg| arg.get_long() == Some(name)), "{name}");
        }
    }

    #[test]
    fn what_is_about_the_log_does_not_choose_the_store() {
        assert!(!parse(["-v", "4", "--vmodule=x=1", "--log_backtrace_at=x:1"]).unwrap().any());
        assert!(parse(["-v", "4", "--ip-masq=false"]).unwrap().any());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for args in [
            &["--subnet-lease-renew-margin=0"][..],
            &["--subnet-lease-renew-margin=1440"],
            &["--ip-masq=maybe"],
            &["--public-ip=nobody"],
            &["--no-such-flag"],
        ] {
            assert!(parse(args.iter().copied()).is_err(), "{args:?}");
        }
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let args = ["weftd", "-iface=x", "-h", "--config", "-V", "-version", "--", "-iface"];
        let wanted = ["weftd", "--iface=x", "-h", "--config", "-V", "--version", "--", "-iface"];
        assert_eq!(with_two_dashes(args.map(OsString::from).into_iter()), wanted.map(OsString::from));
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let flags = parse(["--log_backtrace_at=x:1", "--vmodule=x=1", "--iptables-resync=5"]).unwrap();
        let lines = flags.without_effect(|_| None);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("--")), "{lines:?}");
        let flags = parse(["--ip-masq=false", "--iface=eth0"]).unwrap();
        assert!(flags.without_effect(|_| None).is_empty());
        for name in ["EVENT_QUEUE_DEPTH", "CONT_WHEN_CACHE_NOT_READY", "WIREGUARD_KEY_FILE"] {
            let set = |to: &'static str| move |asked: &str| (asked == name).then(|| to.into());
            let lines = flags.without_effect(set("true"));
            assert!(
                lines.len() == 1 && lines[0].starts_with(&format!("{name} has no effect: ")),
                "{lines:?}"
            );
            assert!(flags.without_effect(set("")).is_empty());
        }
    }

    #[test]
    fn the_manifests_options_are_known() {
        let manifest = include_str!("../../../deploy/kubernetes/weft.yaml");
        let list = manifest.lines().find_map(|line| line.trim().strip_prefix("args: [")?.strip_suffix(']'));
        let flags = parse(list.unwrap().split(", ")).unwrap();
        assert_eq!(
            (flags.ip_masq, flags.kube_subnet_mgr, flags.healthz_port),
            (Some(true), Some(true), Some(8081))
        );
        assert!(flags.without_effect(|_| None).is_empty());
    }
}
