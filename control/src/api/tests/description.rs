//! The API's description against the API: each has all of the other, and what is sent is as it is described.

use std::collections::BTreeSet;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::{Value, json};
use weft_api::PodSpec;

use super::{Daemon, spec};
use crate::api::Limits;

/// The description, with a validator for its schemas.
struct Described {
    document: Value,
    schemas: Schemas,
    compiler: Compiler,
}

const PLACE: &str = "http://weft/openapi.json";

impl Described {
    async fn by(daemon: &Daemon) -> Self {
        let (status, document) = daemon.request("GET", "/v1/openapi.json", "").await;
        assert_eq!(status, 200);
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource(PLACE, document.clone()).unwrap();
        Self { document, schemas: Schemas::new(), compiler }
    }

    fn schema(&mut self, pointer: &str) -> SchemaIndex {
        let at = format!("{PLACE}#{pointer}");
        self.compiler.compile(&at, &mut self.schemas).unwrap_or_else(|error| panic!("{at}: {error:#}"))
    }

    /// Each operation: method, path, and what is said of it.
    fn operations(&self) -> Vec<(String, String, Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &Value)| -> Vec<_> {
            let operations = item.as_object().unwrap().iter();
            operations.map(|(method, said)| (method.to_uppercase(), path.clone(), said.clone())).collect()
        };
        paths.iter().flat_map(of_path).collect()
    }

    /// The place in the document of the schema of an answer.
    fn answer(method: &str, path: &str, status: u16) -> String {
        let path = path.replace('~', "~0").replace('/', "~1").replace('{', "%7B").replace('}', "%7D");
        let method = method.to_lowercase();
        format!("/paths/{path}/{method}/responses/{status}/content/application~1json/schema")
    }

    fn complaint(&mut self, pointer: &str, value: &Value) -> Option<String> {
        let schema = self.schema(pointer);
        self.schemas.validate(value, schema).err().map(|error| format!("{pointer}: {error:#}"))
    }
}

#[tokio::test]
async fn what_is_served_is_described_and_what_is_described_is_served() {
    let daemon = Daemon::start(Limits::default());
    let described = Described::by(&daemon).await;
    assert_eq!(described.document["openapi"], "3.1.0");
    // A list of its own, so that a path that vanishes from both is missed.
    let expected = [
        "DELETE /v1/pods/{name}",
        "GET /v1",
        "GET /v1/config",
        "GET /v1/drops",
        "GET /v1/fdb",
        "GET /v1/flows",
        "GET /v1/neigh",
        "GET /v1/openapi.json",
        "GET /v1/pins",
        "GET /v1/pods",
        "GET /v1/ports",
        "GET /v1/routes",
        "GET /v1/stats",
        "GET /v1/status",
        "GET /v1/vteps",
        "GET /v1/workers",
        "POST /v1/pods",
    ];
    let operations = described.operations();
    let said: BTreeSet<_> = operations.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(said.iter().map(String::as_str).collect::<Vec<_>>(), expected);

    let index = daemon.client().index().await.unwrap();
    let listed: BTreeSet<_> =
        index.resources.iter().map(|text| text.split('?').next().unwrap().to_owned()).collect();
    assert_eq!(listed, said, "GET /v1 lists something else");
    assert!(index.resources.contains(&"GET /v1/flows?seconds={seconds}&limit={limit}".to_owned()));

    // Whatever method and path: served if it is described, and only then.
    let paths: BTreeSet<_> = operations.iter().map(|(_, path, _)| path).collect();
    for path in paths {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            let (status, _) = daemon.request(method, &path.replace("{name}", "nobody"), "").await;
            let is_served = status != 405;
            assert_eq!(is_served, said.contains(&format!("{method} {path}")), "{method} {path}: {status}");
        }
    }
    let ids: BTreeSet<_> =
        operations.iter().map(|(.., said)| said["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations.len(), "an operation's name is there twice");
}

#[tokio::test]
async fn every_parameter_is_described_and_no_other_is_taken() {
    let daemon = Daemon::start(Limits::default());
    let described = Described::by(&daemon).await;
    for (method, path, said) in described.operations() {
        if method != "GET" {
            continue;
        }
        let (status, answer) = daemon.request("GET", &format!("{path}?nonsense=1"), "").await;
        assert_eq!((status, answer["code"].as_str()), (400, Some("bad_request")), "{path}");
        // The refusal names what is taken: it must be what is described.
        for parameter in said["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            let expected = answer["error"].as_str().unwrap().contains(&format!("`{name}`"));
            assert!(expected, "{path} does not take {name}: {answer}");
        }
    }
}

#[tokio::test]
async fn answers_are_as_they_are_described() {
    let daemon = Daemon::start(Limits::default());
    let mut described = Described::by(&daemon).await;
    daemon.client().add_pod(&spec("a")).await.unwrap();
    for (method, path, said) in described.operations() {
        let (wanted, body) = match method.as_str() {
            "POST" => (201, serde_json::to_string(&spec("b")).unwrap()),
            _ => (200, String::new()),
        };
        let (status, answer) = daemon.request(&method, &path.replace("{name}", "b"), &body).await;
        // The pod `b` may be made only after it is to be deleted.
        let wanted = if method == "DELETE" { status } else { wanted };
        assert_eq!(status, wanted, "{method} {path}: {answer}");
        let pointer = Described::answer(&method, &path, status);
        assert_eq!(described.complaint(&pointer, &answer), None, "{answer}");
        // What has nothing of what is promised is not taken for it.
        if path != "/v1/openapi.json" {
            assert!(
                described.complaint(&pointer, &json!({})).is_some(),
                "{method} {path}: anything would do"
            );
        }
        let errors = said["responses"].as_object().unwrap().keys().filter(|code| !code.starts_with('2'));
        for code in errors {
            let pointer = Described::answer(&method, &path, code.parse().unwrap());
            let error = json!({ "error": "why", "code": "refused" });
            assert_eq!(described.complaint(&pointer, &error), None);
            assert!(described.complaint(&pointer, &json!({ "error": "why" })).is_some());
        }
    }
}

#[tokio::test]
async fn a_pod_specification_is_as_it_is_described() {
    let daemon = Daemon::start(Limits::default());
    let mut described = Described::by(&daemon).await;
    let pointer = "/components/schemas/PodSpec";
    for (text, fits) in [
        (r#"{"name":"a","kind":"tap","netns":"/n","addresses":["10.0.0.1"]}"#, true),
        (
            r#"{"name":"a","kind":"tap","netns":"/n","ifname":"net1","addresses":["10.0.0.1"],"trusted":true}"#,
            true,
        ),
        (r#"{"name":"a","kind":"vhost-user","socket":"/s","mode":"client","addresses":["10.0.0.1"]}"#, true),
        (
            r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["fd00::1"],"mac":"02:00:00:00:00:01"}"#,
            true,
        ),
        (r#"{"name":"a","kind":"veth","addresses":["10.0.0.1"]}"#, false),
        (r#"{"name":"a","kind":"tap","addresses":["10.0.0.1"]}"#, false),
        (r#"{"name":"a","kind":"tap","netns":"/n"}"#, false),
        (r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["fd00::1"],"mac":"02"}"#, false),
        (r#"{"name":"a","kind":"dpdk","devargs":"x","addresses":["fd00::1"],"trusted":"yes"}"#, false),
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        let complaint = described.complaint(pointer, &value);
        assert_eq!(complaint.is_none(), fits, "{text}: {complaint:?}");
        assert_eq!(
            serde_json::from_str::<PodSpec>(text).is_ok(),
            fits,
            "the daemon thinks otherwise: {text}"
        );
    }
}
