use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    read::parse(Path::new("weftd.toml"), text.to_owned())
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("# nothing\n[dataplane]\n").unwrap(), Config::default());
}

#[test]
fn a_missing_file_is_the_defaults_only_where_nobody_named_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weftd.toml");
    assert_eq!(Config::load(&path), Err(ConfigError::Missing { path: path.clone() }));
    assert_eq!(Config::load_or_default(&path), Ok(Config::default()));
    std::fs::write(&path, "[log]\nlevel = 1\n").unwrap();
    assert!(Config::load_or_default(&path).is_err(), "a wrong file is never passed over");
}

#[test]
fn the_example_shows_the_defaults() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/weftd.toml"));
    assert_eq!(Config::load(path).unwrap(), Config::default());
    // And what it shows behind a '#' is right as well.
    let text = std::fs::read_to_string(path).unwrap();
    let (head, settings) = text.split_once("\n[").unwrap();
    let config = parse(&format!("{head}\n[{}", settings.replace("\n# ", "\n"))).unwrap();
    assert_eq!(config.dataplane.cores, [3]);
    assert_eq!(config.uplink.interface.as_deref(), Some("eth0"));
    assert_eq!(config.control.group.as_deref(), Some("weft"));
    assert_eq!(config.node_name().unwrap(), "worker-1");
}

/// Found by fuzzing: the parser has no words of its own for this one.
#[test]
fn a_character_that_may_stand_nowhere_is_named() {
    let error = parse("[log]\n# a bell\u{7}\nlevel = \"info\"\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "weftd.toml:2:9: the character '\\u{7}' cannot stand here; correct the TOML here"
    );
}

#[test]
fn settings_are_read_as_they_stand() {
    let config = parse(
        r#"
        [dataplane]
        cores = [2, 3]
        memory = "1 GiB"
        hugepages = "require"
        idle = "poll"
        spin_us = 0
        poll_beat_us = 100
        pins = 4096
        [uplink]
        outer_checksum = "valid"
        known_vteps_only = false
        [source]
        path = "/srv/cluster.toml"
        [bridge]
        ageing_s = 10
        learn_limit = 0
        flood_rate = 1000000
        move_rate = 1
        [router]
        icmp_rate = 5
        [metrics]
        listen = "[::1]:9000"
        [log]
        level = "debug"
        "#,
    )
    .unwrap();
    let dataplane = Dataplane {
        workers: 2,
        cores: vec![2, 3],
        memory: 1 << 30,
        hugepages: Hugepages::Require,
        idle: Idle::Poll,
        spin_us: 0,
        poll_beat_us: 100,
        pins: 4096,
    };
    assert_eq!(config.dataplane, dataplane);
    assert_eq!(config.uplink.outer_checksum, OuterChecksum::Valid);
    assert!(!config.uplink.known_vteps_only);
    assert_eq!(config.source, SourceConfig { kind: SourceKind::File, path: "/srv/cluster.toml".into() });
    assert_eq!(config.log.level.as_str(), "debug");
    assert_eq!(config.bridge, Bridge { ageing_s: 10, learn_limit: 0, flood_rate: 1_000_000, move_rate: 1 });
    assert_eq!((config.router.icmp_rate, config.metrics.listen), (5, "[::1]:9000".parse().ok()));
    assert_eq!(parse("[metrics]\nlisten = \"\"").unwrap().metrics.listen, None);
    assert_eq!(parse("[dataplane]\nmemory = 16777216").unwrap().dataplane.memory, 16 << 20);
}

#[test]
fn each_mistake_is_told_with_its_line() {
    #[rustfmt::skip]
    let table: &[(&str, usize, &str, &str)] = &[
        ("[dataplane\n", 1, "", "correct the TOML here"),
        ("\n[data_plane]\n", 2, "data_plane", "unknown setting; did you mean dataplane?"),
        ("\n\nworkers = 2", 3, "workers", "unknown setting"),
        ("[dataplane]\nworker = 2", 2, "dataplane.worker", "did you mean workers?"),
        ("[dataplane]\nworkers = 0", 2, "dataplane.workers", "0 is not within 1 to 64"),
        ("[dataplane]\nworkers = 65", 2, "dataplane.workers", "65 is not within 1 to 64"),
        ("[dataplane]\nworkers = true", 2, "dataplane.workers", "a boolean is given; write an integer"),
        ("[dataplane]\ncores = 1", 2, "dataplane.cores", "an integer is given; write a list"),
        ("[dataplane]\ncores = [1, -1]", 2, "dataplane.cores[1]", "-1 is not within 0 to 1023"),
        ("[dataplane]\ncores = [\n1,\n1]", 4, "dataplane.cores[1]", "core 1 is listed twice"),
        ("[dataplane]\nworkers = 2\ncores = [1]", 3, "dataplane.cores", "1 are listed for 2 workers"),
        ("[dataplane]\nmemory = \"8MiB\"", 2, "dataplane.memory", "\"8MiB\" is out of range; write a size within 16MiB to 64GiB"),
        ("[dataplane]\nmemory = \"48MB\"", 2, "dataplane.memory", "\"48MB\" is no size"),
        ("[dataplane]\nmemory = \"99999999999999999GiB\"", 2, "dataplane.memory", "is no size"),
        ("[dataplane]\nmemory = -1", 2, "dataplane.memory", "-1 is no size"),
        ("[dataplane]\nmemory = []", 2, "dataplane.memory", "array is no size"),
        ("[dataplane]\nhugepages = \"always\"", 2, "dataplane.hugepages", "write \"auto\" or \"never\" or \"require\""),
        ("[dataplane]\nspin_us = 10001", 2, "dataplane.spin_us", "10001 is not within 0 to 10000"),
        ("[uplink]\nkind = \"dpdk\"", 2, "uplink.kind", "\"dpdk\" is not among the choices; write \"socket\" or \"af_packet\" or \"af_xdp\""),
        ("[uplink]\ninterface = \"abcdefghijklmnop\"", 2, "uplink.interface", "has 16 bytes"),
        ("[uplink]\nknown_vteps_only = \"yes\"", 2, "uplink.known_vteps_only", "a string is given; write true or false"),
        ("[source]\nkind = \"consul\"", 2, "source.kind", "write \"file\""),
        ("[etcd]\nendpoints = \"http://\"", 2, "etcd.endpoints", "addresses with commas"),
        ("[etcd]\nprefix = \"x\"", 2, "etcd.prefix", "what all keys begin with"),
        ("[flannel]\npublic_ip = \"::1\"", 2, "flannel.public_ip", "an IPv4 address"),
        ("[source]\npath = \"cluster.toml\"", 2, "source.path", "\"cluster.toml\" is not an absolute path"),
        ("[control]\nsocket = \"/run/../weftd.sock\"", 2, "control.socket", "has \"..\" in it"),
        ("[state]\ndir = 5", 2, "state.dir", "an integer is given; write the whole path"),
        ("[host_port]\nname = \"lo\"", 2, "host_port.name", "the loopback interface"),
        ("[log]\nlevel = \"loud\"", 2, "log.level", "\"loud\" is not among the choices"),
        ("[[log]]\nlevel = \"info\"", 1, "log", "a list of tables is given; write one table, [log]"),
        ("[bridge]\nageing_s = 9", 2, "bridge.ageing_s", "9 is not within 10 to 1000000"),
        ("[bridge]\nageing = 9", 2, "bridge.ageing", "unknown setting; remove it. Known here: ageing_s"),
        ("[router]\nicmp_rate = -1", 2, "router.icmp_rate", "-1 is not within 0 to 1000000"),
        ("[metrics]\nlisten = \"localhost:9477\"", 2, "metrics.listen", "invalid socket address syntax; write an IP address and a port"),
        ("[metrics]\nlisten = 9477", 2, "metrics.listen", "an integer is given"),
        ("[node]\nname = \"a b\"", 2, "node.name", "' ' may not stand in a name"),
    ];
    for (text, line, setting, rest) in table {
        let error = parse(text).expect_err(text);
        let ConfigError::Wrong { mistakes, .. } = &error else { panic!("{text:?}: {error}") };
        assert_eq!(mistakes.len(), 1, "{text:?}: {error}");
        assert_eq!((mistakes[0].line, mistakes[0].setting.as_str()), (*line, *setting), "{text:?}: {error}");
        assert!(error.to_string().contains(rest), "{text:?}: {error}, not {rest:?}");
        assert!(error.to_string().starts_with(&format!("weftd.toml:{line}:")), "{error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = parse("[dataplane]\nworkers = 0\nidle = 1\n[log]\nlevel = 2\nx = 1").unwrap_err();
    let ConfigError::Wrong { mistakes, .. } = error else { panic!("{error}") };
    assert_eq!(mistakes.iter().map(|m| m.line).collect::<Vec<_>>(), [2, 3, 5, 6]);
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_a_configuration(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn a_damaged_example_is_an_error_or_a_configuration(at in any::<prop::sample::Index>(), with in "\\PC{0,3}", cut in 0..4usize) {
        let text: Vec<char> = include_str!("../../../../docs/examples/weftd.toml").chars().collect();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        let damaged: String = text[..at].iter().copied().chain(with.chars()).chain(text[end..].iter().copied()).collect();
        let _ = parse(&damaged);
    }
}
