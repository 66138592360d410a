//! The control socket, as `curl --unix-socket` sees it: what there is, and clients that mean no good.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use boon::{Compiler, Draft, Schemas};
use serde_json::{Value, json};
use weft_api::BODY_LIMIT;

use crate::lab::http::{self, Answer, ask};
use crate::lab::{Lab, Namespace, VTEP_MACS, tap_pod, tap_spec, wait_for};

/// The only entry of a list that has this value under this key.
fn entry<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found: Vec<_> = list.as_array().unwrap().iter().filter(|entry| entry[key] == value).collect();
    assert_eq!(found.len(), 1, "{key} {value} in {list}");
    found[0]
}

/// A lab with the pods web (from the file) and fw (trusted, added).
fn two_pods(lab: &Lab, web: &Namespace, fw: &Namespace) -> crate::lab::Weftd {
    lab.write_cluster(&tap_pod("web", 2, web));
    let weftd = lab.start();
    let mut spec = tap_spec("fw", 3, &fw.path());
    spec.trusted = true;
    assert!(lab.add(&spec).unwrap().trusted);
    lab.peer_resolved();
    weftd
}

#[test]
fn each_list_says_what_is_there() {
    let lab = Lab::new();
    let (web, fw) = (Namespace::new("web"), Namespace::new("fw"));
    let _weftd = two_pods(&lab, &web, &fw);
    let get = |path: &str| {
        let answer = ask(&lab.socket(), "GET", path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    };
    let pods = get("/v1/pods")["pods"].clone();
    let (web_mac, web_port) = (pods[1]["mac"].clone(), pods[1]["port_id"].clone());
    assert_eq!((&pods[0]["trusted"], &pods[1]["trusted"]), (&json!(true), &json!(false)));
    assert_eq!(get("/v1/pods?name=web")["pods"], json!([pods[1]]));
    assert_eq!(get("/v1/pods?name=nobody")["pods"], json!([]));

    let ports = get("/v1/ports")["ports"].clone();
    let seen: BTreeMap<_, _> = ports
        .as_array()
        .unwrap()
        .iter()
        .map(|port| {
            (port["name"].as_str().unwrap(), [&port["kind"], &port["role"], &port["worker"], &port["mtu"]])
        })
        .collect();
    let (tap, zero, mtu) = (json!("tap"), json!(0), json!(1450));
    assert_eq!(seen["web"], [&tap, &json!("pod"), &zero, &mtu]);
    assert_eq!(seen["fw"], [&tap, &json!("trusted"), &zero, &mtu]);
    assert_eq!(seen["weft0"], [&json!("host"), &json!("host"), &zero, &mtu]);
    assert_eq!(seen["up0"], [&json!("uplink"), &json!("uplink"), &Value::Null, &json!(1500)]);
    assert!(ports.as_array().unwrap().iter().all(|port| port["connected"] == json!(true)));
    assert_eq!(get("/v1/ports?name=web")["ports"][0]["id"], web_port);

    let fdb = get("/v1/fdb")["entries"].clone();
    let own = entry(&fdb, "mac", web_mac.as_str().unwrap());
    assert_eq!((&own["port"], &own["kind"], &own["port_id"]), (&json!("web"), &json!("static"), &web_port));
    assert_eq!(entry(&fdb, "kind", "gateway")["port_id"], Value::Null);
    let host = lab.node.json("link show dev weft0").remove(0)["address"].clone();
    assert_eq!(entry(&fdb, "mac", host.as_str().unwrap())["port"], "weft0");
    assert_eq!(get("/v1/fdb?port=web")["entries"], json!([own]));
    let by_mac = format!("/v1/fdb?mac={}", web_mac.as_str().unwrap());
    assert_eq!(get(&by_mac)["entries"], json!([own]));

    let neighbours = get("/v1/neigh");
    assert_eq!(neighbours["conflicts"], json!([]));
    for (address, kind, port) in [
        ("10.244.0.2", "static", json!("web")),
        ("fd00:10:244::2", "static", json!("web")),
        ("10.244.0.1", "gateway", Value::Null),
        ("fd00:10:244::1", "gateway", Value::Null),
        ("172.16.0.2", "underlay", json!("up0")),
    ] {
        let known = entry(&neighbours["entries"], "address", address);
        assert_eq!((&known["kind"], &known["port"]), (&json!(kind), &port), "{address}");
        assert_eq!(get(&format!("/v1/neigh?address={address}"))["entries"], json!([known]));
    }
    let underlay = entry(&neighbours["entries"], "address", "172.16.0.2");
    let far = lab.peer.json("link show dev up0").remove(0)["address"].clone();
    assert_eq!((&underlay["mac"], &underlay["state"]), (&far, &json!("resolved")));
}

#[test]
fn each_way_is_listed_and_a_packet_s_way_is_told() {
    let lab = Lab::new();
    lab.configure("idle = \"poll\"", "", "");
    let (web, fw) = (Namespace::new("web"), Namespace::new("fw"));
    let _weftd = two_pods(&lab, &web, &fw);
    let get = |path: &str| ask(&lab.socket(), "GET", path).json();

    let vteps = get("/v1/vteps");
    let far = entry(&vteps["vteps"], "node", "b");
    let expected = json!({
        "node": "b", "address": "172.16.0.2", "mac": VTEP_MACS[1], "vni": 1, "mtu": 1450, "resolved": true,
        "next_hop": "172.16.0.2", "source": "172.16.0.1",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&far[key], value, "{key} in {far}");
    }
    assert_eq!(get("/v1/vteps?node=b")["vteps"], json!([far]));
    assert_eq!(get("/v1/vteps?node=a")["vteps"], json!([]));
    assert_eq!(entry(&vteps["local"], "address", "172.16.0.1")["mac"], VTEP_MACS[0]);
    assert!(lab.node.ip("-6 addr show dev up0").contains("fe80:"), "the uplink has no link-local address");
    let local = vteps["local"].as_array().unwrap();
    assert!(!local.iter().any(|end| end["address"].as_str().unwrap().starts_with("fe80:")), "{local:?}");

    let routes = get("/v1/routes")["routes"].clone();
    for (to, kind, port) in [
        ("10.244.0.0/16", "unreachable", Value::Null),
        ("10.244.0.0/24", "local", Value::Null),
        ("10.244.0.1/32", "host", json!("weft0")),
        ("10.244.1.0/24", "vtep", json!("up0")),
        ("fd00:10:244:1::/64", "vtep", json!("up0")),
        ("0.0.0.0/0", "host", json!("weft0")),
        ("::/0", "host", json!("weft0")),
    ] {
        let route = entry(&routes, "to", to);
        assert_eq!((&route["kind"], &route["port"]), (&json!(kind), &port), "{to}");
    }
    let there = entry(&routes, "to", "10.244.1.0/24");
    assert_eq!((&there["via"], &there["node"]), (&json!(["172.16.0.2"]), &json!("b")));

    for (address, to, kind, port) in [
        ("10.244.0.2", "10.244.0.0/24", "local", json!("web")),
        ("10.244.0.77", "10.244.0.0/24", "local", Value::Null),
        ("fd00:10:244::3", "fd00:10:244::/64", "local", json!("fw")),
        ("10.244.1.9", "10.244.1.0/24", "vtep", json!("up0")),
        ("10.244.200.1", "10.244.0.0/16", "unreachable", Value::Null),
        ("192.0.2.1", "0.0.0.0/0", "host", json!("weft0")),
        ("2001:db8::1", "::/0", "host", json!("weft0")),
    ] {
        let taken = get(&format!("/v1/routes?match={address}"))["routes"].clone();
        assert_eq!(taken.as_array().unwrap().len(), 1, "{address}: {taken}");
        let taken = &taken[0];
        assert_eq!(
            (&taken["to"], &taken["kind"], &taken["port"]),
            (&json!(to), &json!(kind), &port),
            "{address}"
        );
    }
    for nowhere in ["127.0.0.1", "224.0.0.1", "fe80::1", "::"] {
        assert_eq!(get(&format!("/v1/routes?match={nowhere}"))["routes"], json!([]), "{nowhere}");
    }

    let workers = get("/v1/workers")["workers"].clone();
    let mut names: Vec<_> =
        workers[0]["ports"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!((workers.as_array().unwrap().len(), names), (1, vec!["fw", "up0", "web", "weft0"]));
    // This one never sleeps (see above), and so comes to what was published last.
    wait_for("the worker to use the newest snapshot", || {
        (get("/v1/workers")["workers"][0]["generation"] == json!(lab.status().generation)).then_some(())
    });

    let flows = get("/v1/flows?seconds=1&limit=5");
    assert_eq!(
        (&flows["sampled_one_in"], &flows["lost"]),
        (&json!(1), &json!(0)),
        "a quiet node is seen whole"
    );
}

#[test]
fn stations_behind_a_trusted_pod_are_listed_and_who_claims_another_s_address_is_named() {
    let lab = Lab::new();
    let (web, fw) = (Namespace::new("web"), Namespace::new("fw"));
    let _weftd = two_pods(&lab, &web, &fw);
    let get = |path: &str| ask(&lab.socket(), "GET", path).json();
    let configured = lab.pods().pods[0].mac.to_string();

    // Another station behind fw, with an address that no pod has.
    let station = "02:00:00:00:77:01";
    fw.ip(&format!("link set eth0 address {station}"));
    fw.ip("addr add 10.244.0.77/24 dev eth0");
    wait_for("the station to be learned", || {
        fw.exec("ping -n -c 1 -W 1 -I 10.244.0.77 10.244.0.1");
        let fdb = get("/v1/fdb?port=fw")["entries"].clone();
        let learned = fdb.as_array().unwrap().iter().find(|entry| entry["kind"] == "learned")?.clone();
        assert_eq!((&learned["mac"], &learned["port"]), (&json!(station), &json!("fw")));
        assert!(learned["age_s"].as_u64().unwrap() < 60, "{learned}");
        assert_eq!(entry(&fdb, "mac", &configured)["kind"], "static");
        Some(())
    });
    let known = wait_for("its address to be known", || {
        let known = get("/v1/neigh?address=10.244.0.77")["entries"].clone();
        known.as_array().unwrap().first().cloned()
    });
    assert_eq!(
        (&known["kind"], &known["mac"], &known["port"]),
        (&json!("learned"), &json!(station), &json!("fw"))
    );
    assert!(known["age_s"].is_u64(), "{known}");
    assert_eq!(get("/v1/ports?name=fw")["ports"][0]["learned"], 1);
    assert_eq!(get("/v1/ports?name=web")["ports"][0]["learned"], 0);
    assert_eq!(get("/v1/routes?match=10.244.0.77")["routes"][0]["port"], "fw");

    fw.ip("addr add 10.244.0.2/24 dev eth0");
    let conflict = wait_for("the claim to be told", || {
        // It asks for the gateway in the name of the other.
        fw.ip("neigh flush dev eth0");
        fw.exec("ping -n -c 1 -W 1 -I 10.244.0.2 10.244.0.1");
        get("/v1/neigh?address=10.244.0.2")["conflicts"].as_array().unwrap().first().cloned()
    });
    assert_eq!((&conflict["mac"], &conflict["port"]), (&json!(station), &json!("fw")));
    let (started, now) = (lab.status().started_at, conflict["last_seen"].as_u64().unwrap());
    assert!(conflict["count"].as_u64().unwrap() > 0 && now >= started, "{conflict}");
    assert_eq!(
        entry(&get("/v1/neigh")["entries"], "address", "10.244.0.2")["port"],
        "web",
        "the pod keeps it"
    );
}

#[test]
fn flows_are_those_that_pass_while_somebody_looks() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    lab.peer_resolved();
    let get = |path: &str| ask(&lab.socket(), "GET", path).json();
    let streams = ["10.244.0.3", "fd00:10:244::3", "10.244.1.9", "10.244.200.1"].map(|to| web.stream(to));
    lab.flows_from("web");
    let wanted = [
        ("10.244.0.2", "10.244.0.3", "web", 1, "port", json!("db")),
        ("10.244.0.3", "10.244.0.2", "db", 1, "port", json!("web")),
        ("fd00:10:244::2", "fd00:10:244::3", "web", 58, "port", json!("db")),
        ("10.244.0.2", "10.244.1.9", "web", 1, "tunnel", json!("b")),
    ];
    let found = |flows: &Value, src: &str, dst: &str| {
        let mut flows = flows["flows"].as_array().unwrap().iter();
        flows.find(|flow| flow["src"] == src && flow["dst"] == dst).cloned()
    };
    // Each stream begins when it can.
    let flows = wait_for("all streams to flow", || {
        let flows = get("/v1/flows?seconds=1");
        let flow = |src, dst| found(&flows, src, dst).is_some_and(|flow| flow["packets"].as_u64() > Some(1));
        let all = wanted.iter().all(|(src, dst, ..)| flow(src, dst)) && flow("10.244.0.2", "10.244.200.1");
        all.then_some(flows)
    });
    assert_eq!((&flows["sampled_one_in"], &flows["lost"]), (&json!(1), &json!(0)));
    let of = |src: &str, dst: &str| found(&flows, src, dst).expect("it flows");
    for (src, dst, port, protocol, verdict, to) in wanted {
        let flow = of(src, dst);
        assert_eq!(
            (&flow["port"], &flow["protocol"], &flow["verdict"], &flow["to"]),
            (&json!(port), &json!(protocol), &json!(verdict), &to),
            "{flow}"
        );
        // Echo requests of 84 bytes, or 104 of IPv6.
        let (packets, bytes) = (flow["packets"].as_u64().unwrap(), flow["bytes"].as_u64().unwrap());
        assert!(packets > 1 && bytes == packets * if protocol == 58 { 104 } else { 84 }, "{flow}");
    }
    let dropped = of("10.244.0.2", "10.244.200.1");
    assert_eq!(dropped["verdict"], "dropped");
    let reasons = get("/v1/drops")["total"].clone();
    entry(&reasons, "reason", dropped["to"].as_str().unwrap());

    let few = get("/v1/flows?seconds=1&limit=1");
    assert_eq!(few["flows"].as_array().unwrap().len(), 1);
    assert!(few["seen"].as_u64().unwrap() > 3, "{few}");

    // More at once than may watch: each has an answer, most the flows and the rest that it is to come again.
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let socket = lab.socket();
            thread::spawn(move || ask(&socket, "GET", "/v1/flows?seconds=10").status)
        })
        .collect();
    let mut answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    answers.sort_unstable();
    assert_eq!(answers, [vec![200; 16], vec![503; 4]].concat());
    drop(streams);
}

#[test]
fn what_is_answered_is_as_the_daemon_describes_it() {
    let lab = Lab::new();
    let (web, fw) = (Namespace::new("web"), Namespace::new("fw"));
    let _weftd = two_pods(&lab, &web, &fw);
    assert!(web.pings("10.244.0.3"));
    let description = ask(&lab.socket(), "GET", "/v1/openapi.json").json();
    assert_eq!(description["openapi"], "3.1.0");
    let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
    compiler.set_default_draft(Draft::V2020_12);
    compiler.add_resource("http://weft/openapi.json", description.clone()).unwrap();
    let mut seen = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        let answer = ask(&lab.socket(), "GET", path);
        assert_eq!(answer.status, 200, "{path}");
        // Each list has something in it, or nothing of its entries would have been looked at.
        let at = path.replace('/', "~1");
        let place = format!(
            "http://weft/openapi.json#/paths/{at}/get/responses/200/content/application~1json/schema"
        );
        let schema =
            compiler.compile(&place, &mut schemas).unwrap_or_else(|error| panic!("{place}: {error:#}"));
        if let Err(error) = schemas.validate(&answer.json(), schema) {
            panic!("{path}: {error:#}\n{}", answer.body);
        }
        let head = ask(&lab.socket(), "HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        seen += 1;
    }
    assert!(seen >= 13, "{seen}");
    for list in ["pods", "ports", "vteps", "routes", "workers"] {
        let answer = ask(&lab.socket(), "GET", &format!("/v1/{list}")).json();
        assert!(!answer[list].as_array().unwrap().is_empty(), "{list} is empty");
    }
}

/// What a process holds open.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count()
}

/// Sends a byte now and then, of a request that never ends, until the daemon has had enough.
fn dribble(socket: &Path, begin: &str) {
    let mut stream = http::connect(socket);
    let bytes = begin.as_bytes().iter().chain(std::iter::repeat(&b'x'));
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn clients_that_are_slow_or_talk_rubbish_harm_nobody() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let mut weftd = lab.start();
    let socket = lab.socket();
    let pid = lab.status().pid;
    let before = descriptors(pid);
    let stream = web.stream("10.244.0.3");
    lab.flows_from("web");

    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        // Somebody who behaves, all the while.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(ask(&socket, "GET", "/v1/status").status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut bad = Vec::new();
        for begin in
            ["", "GET /v1/status HTTP/1.1\r\nX: ", "POST /v1/pods HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"]
        {
            bad.extend((0..10).map(|_| scope.spawn(|| dribble(&socket, begin))));
        }
        // Half-closed: in the head, in the body, after nothing.
        for part in ["GET /v1/st", "POST /v1/pods HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", ""] {
            let mut stream = http::connect(&socket);
            stream.write_all(part.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let answer = http::read_all(stream);
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
        // One that never reads.
        let mut deaf = http::connect(&socket);
        deaf.write_all(http::request("GET", "/v1/openapi.json", "").as_bytes()).unwrap();

        rubbish(&socket);
        bodies(&socket);
        pipelined(&socket);
        crowd(&socket);
        // The slow ones are cut off by the daemon: they end by themselves.
        bad.into_iter().for_each(|client| client.join().unwrap());
        drop(deaf);
        over.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 10, "the one who behaves was hardly heard");
    lab.flows_from("web");
    stream.assert_unbroken();
    weftd.assert_alive();
    wait_for("every connection to be closed", || (descriptors(pid) <= before).then_some(()));
    assert_eq!(lab.status().problems, Vec::<String>::new());
    lab.counters_balance();
}

/// Everything but HTTP, and HTTP that is none.
fn rubbish(socket: &Path) {
    let noise: Vec<u8> = (0u32..200_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let endless = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(20_000));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for bytes in [
        noise.as_slice(),
        b"\0\0\0\0",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT weft:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/pods HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST /v1/pods HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"GET /v1/routes?match=%00%0a HTTP/1.1\r\n\r\n",
        b"DELETE /v1/pods/..%2f..%2fetc%2fpasswd HTTP/1.1\r\n\r\n",
        endless.as_bytes(),
        long.as_bytes(),
    ] {
        let answer = http::raw(socket, bytes);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
}

/// Bodies that are too long, announced and not.
fn bodies(socket: &Path) {
    for length in [BODY_LIMIT + 1, 500_000] {
        let answer = http::raw(socket, http::request("POST", "/v1/pods", &" ".repeat(length)).as_bytes());
        assert_eq!(Answer::read(&answer).status, 413);
    }
    // One that goes on for ever is cut off, whether its sender has read why or not.
    let mut stream = http::connect(socket);
    let _ = stream.write_all(b"POST /v1/pods HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 65536], b"\r\n"].concat();
    let sent = (0..1000).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 1000, "64 MiB were taken");
    // Deep JSON is no way to a deep stack.
    let deep =
        Answer::read(&http::raw(socket, http::request("POST", "/v1/pods", &"[".repeat(60_000)).as_bytes()));
    assert_eq!(deep.status, 400);
}

/// Several requests at once: the first is answered, and it is said that the connection ends.
fn pipelined(socket: &Path) {
    let answer = http::raw(socket, http::request("GET", "/v1/stats", "").repeat(100).as_bytes());
    let answer = Answer::read(&answer);
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
}

/// More connections at once than the daemon serves at a time: each has its turn.
fn crowd(socket: &Path) {
    let socket: PathBuf = socket.to_owned();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let socket = socket.clone();
            thread::spawn(move || {
                let mut stream = http::connect(&socket);
                stream.write_all(http::request("GET", "/v1/ports", "").as_bytes()).expect("it is taken");
                let mut text = String::new();
                stream.read_to_string(&mut text).expect("an answer");
                Answer::read(&text).status
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
}
