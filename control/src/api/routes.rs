//! Paths and methods, and what each asks of the [`Backend`]. The list of the operations is the only one: router, index
//! and description are made from it.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;
use weft_api::{
    ApiError, ConfigReport, Drops, ErrorCode, FLOW_LIMIT, FLOW_LIMIT_MAX, FLOW_SECONDS, FLOW_SECONDS_MAX,
    Fdb, Flows, Index, Mac, Neighbours, PIN_LIMIT, PIN_LIMIT_MAX, Pins, Pod, PodSpec, Pods, Ports, Routes,
    Stats, Status, Vteps, Workers,
};

use super::Backend;
use super::document::{Description, Parameter, Schema, document};

/// An [`ApiError`] as an answer.
pub(super) struct Failure(pub(super) ApiError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

type Answer = Result<Response, Failure>;

/// What every operation has at hand.
struct Shared<B> {
    backend: Arc<B>,
    /// The time that the backend has for one call.
    answer: Duration,
    index: Arc<Index>,
    document: Bytes,
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            answer: self.answer,
            index: Arc::clone(&self.index),
            document: self.document.clone(),
        }
    }
}

/// An operation: what it takes and gives, and who carries it out.
type Operation<B> = (Description, MethodRouter<Shared<B>>);

fn reading(path: &'static str, id: &'static str, summary: &'static str, success: Schema) -> Description {
    Description {
        method: "get",
        path,
        id,
        summary,
        parameters: Vec::new(),
        body: None,
        success: (200, success),
        failures: &[],
    }
}

fn filter(name: &'static str, meaning: &'static str, schema: Value) -> Parameter {
    Parameter { name, place: "query", meaning, schema }
}

/// All there is.
fn operations<B: Backend>() -> Vec<Operation<B>> {
    let text = || json!({ "type": "string" });
    let with = |description, parameters| Description { parameters, ..description };
    vec![
        (reading("/v1", "index", "What there is.", Schema::of::<Index>()), get(index::<B>)),
        (reading("/v1/openapi.json", "openapi", "This description.", Schema::object()), get(openapi::<B>)),
        (reading("/v1/status", "status", "How the daemon is.", Schema::of::<Status>()), get(status::<B>)),
        (
            with(
                reading("/v1/pods", "listPods", "The pods of this node.", Schema::of::<Pods>()),
                vec![filter("name", "Only the pod of this name.", text())],
            ),
            get(pods::<B>),
        ),
        (
            Description {
                method: "post",
                body: Some(Schema::of::<PodSpec>()),
                success: (201, Schema::of::<Pod>()),
                failures: &[409, 422],
                ..reading(
                    "/v1/pods",
                    "addPod",
                    "Attaches a pod; the same again is no error.",
                    Schema::of::<Pod>(),
                )
            },
            post(add_pod::<B>),
        ),
        (
            Description {
                method: "delete",
                parameters: vec![Parameter {
                    name: "name",
                    place: "path",
                    meaning: "The pod's name.",
                    schema: text(),
                }],
                failures: &[404, 409],
                ..reading(
                    "/v1/pods/{name}",
                    "deletePod",
                    "Detaches a pod that was added.",
                    Schema::of::<Pod>(),
                )
            },
            delete(delete_pod::<B>),
        ),
        (
            with(
                reading("/v1/ports", "listPorts", "The switch's ports.", Schema::of::<Ports>()),
                vec![filter("name", "Only the ports of this name.", text())],
            ),
            get(ports::<B>),
        ),
        (
            with(
                reading("/v1/fdb", "listFdb", "MAC addresses and their ports.", Schema::of::<Fdb>()),
                vec![
                    filter("port", "Only what is behind the port of this name.", text()),
                    filter("mac", "Only this MAC address.", text()),
                ],
            ),
            get(fdb::<B>),
        ),
        (
            with(
                reading(
                    "/v1/neigh",
                    "listNeighbours",
                    "IP addresses and who has them.",
                    Schema::of::<Neighbours>(),
                ),
                vec![filter("address", "Only this IP address.", text())],
            ),
            get(neighbours::<B>),
        ),
        (
            with(
                reading("/v1/vteps", "listVteps", "The ends of the tunnels.", Schema::of::<Vteps>()),
                vec![filter("node", "Only the far ends of this node.", text())],
            ),
            get(vteps::<B>),
        ),
        (
            with(
                reading("/v1/routes", "listRoutes", "Where packets go.", Schema::of::<Routes>()),
                vec![filter("match", "Only the route that a packet to this IP address takes.", text())],
            ),
            get(routes::<B>),
        ),
        (
            with(
                reading(
                    "/v1/pins",
                    "listPins",
                    "Connections whose answers go to the host port, whose kernel translates them.",
                    Schema::of::<Pins>(),
                ),
                vec![
                    filter("address", "Only those from or to this IP address.", text()),
                    filter(
                        "limit",
                        "How many at most: the youngest.",
                        json!({ "type": "integer", "minimum": 1, "maximum": PIN_LIMIT_MAX, "default": PIN_LIMIT }),
                    ),
                ],
            ),
            get(pins::<B>),
        ),
        (
            with(
                reading(
                    "/v1/flows",
                    "listFlows",
                    "The flows of the next seconds, estimated from sampled packets.",
                    Schema::of::<Flows>(),
                ),
                vec![
                    filter(
                        "seconds",
                        "How long to watch; the answer takes as long.",
                        json!({ "type": "integer", "minimum": 1, "maximum": FLOW_SECONDS_MAX, "default": FLOW_SECONDS }),
                    ),
                    filter(
                        "limit",
                        "How many flows at most: those with the most bytes.",
                        json!({ "type": "integer", "minimum": 1, "maximum": FLOW_LIMIT_MAX, "default": FLOW_LIMIT }),
                    ),
                ],
            ),
            get(flows::<B>),
        ),
        (
            reading(
                "/v1/workers",
                "listWorkers",
                "The workers, and which ports they have.",
                Schema::of::<Workers>(),
            ),
            get(workers::<B>),
        ),
        (
            reading(
                "/v1/config",
                "config",
                "The settings: what is in force, and what the file says.",
                Schema::of::<ConfigReport>(),
            ),
            get(config::<B>),
        ),
        (
            reading("/v1/stats", "stats", "Counters of ports and workers.", Schema::of::<Stats>()),
            get(stats::<B>),
        ),
        (
            with(
                reading("/v1/drops", "drops", "Dropped frames by reason.", Schema::of::<Drops>()),
                vec![filter(
                    "all",
                    "Also the reasons that never happened.",
                    json!({ "type": "boolean", "default": false }),
                )],
            ),
            get(drops::<B>),
        ),
    ]
}

/// `GET /v1/ports?name={name}`.
fn resource(description: &Description) -> String {
    let filters = description.parameters.iter().filter(|parameter| parameter.place == "query");
    let filters: Vec<_> = filters.map(|filter| format!("{0}={{{0}}}", filter.name)).collect();
    let sign = if filters.is_empty() { "" } else { "?" };
    format!("{} {}{sign}{}", description.method.to_uppercase(), description.path, filters.join("&"))
}

/// All there is. `answer` is the time that the backend has for one call.
pub(super) fn router<B: Backend>(backend: Arc<B>, answer: Duration) -> Router {
    let (descriptions, routes): (Vec<_>, Vec<_>) = operations::<B>().into_iter().unzip();
    let index = Arc::new(Index {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resources: descriptions.iter().map(resource).collect(),
    });
    let document = Bytes::from(document(&descriptions).to_string());
    let mut router = Router::new();
    for (description, route) in descriptions.iter().zip(routes) {
        router = router.route(description.path, route);
    }
    router.fallback(no_such_path).method_not_allowed_fallback(no_such_method).with_state(Shared {
        backend,
        answer,
        index,
        document,
    })
}

/// Runs a call of the backend in a task of its own: a client that goes away, or an answer that comes too late,
/// interrupts nothing half-way, and a panic ends in the task.
async fn run<B: Backend, T: Serialize + Send + 'static, F>(
    Shared { backend, answer: limit, .. }: Shared<B>,
    success: StatusCode,
    call: impl FnOnce(Arc<B>) -> F,
) -> Answer
where
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    match timeout(limit, tokio::spawn(call(backend))).await {
        Ok(Ok(Ok(answer))) => Ok((success, Json(answer)).into_response()),
        Ok(Ok(Err(error))) => Err(Failure(error)),
        Ok(Err(died)) => {
            tracing::error!(error = %died, "a call of the control API died");
            Err(Failure(ApiError::internal("the daemon failed over this request: look into its log")))
        }
        Err(_) => {
            let error =
                format!("no answer within {} s; the daemon goes on with it: look again", limit.as_secs());
            Err(Failure(ApiError::internal(error)))
        }
    }
}

/// What follows the question mark. What is not known there is refused: it would not be heeded.
type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Failure> {
    let refused = |error: QueryRejection| Failure(ApiError::bad_request(error.body_text()));
    query.map(|Query(asked)| asked).map_err(refused)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByName {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfFdb {
    port: Option<String>,
    mac: Option<Mac>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByAddress {
    address: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByNode {
    node: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfRoutes {
    r#match: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPins {
    address: Option<IpAddr>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfFlows {
    seconds: Option<u32>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfDrops {
    #[serde(default)]
    all: bool,
}

async fn index<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>) -> Answer {
    asked(query)?;
    Ok(Json(shared.index.as_ref()).into_response())
}

async fn openapi<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>) -> Answer {
    asked(query)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], shared.document).into_response())
}

async fn status<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>) -> Answer {
    asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.status().await }).await
}

async fn pods<B: Backend>(State(shared): State<Shared<B>>, query: Asked<ByName>) -> Answer {
    let ByName { name } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.pods(name).await }).await
}

/// The body counts, not its `Content-Type`: `curl -d` says "form" of everything.
async fn add_pod<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>, body: Bytes) -> Answer {
    asked(query)?;
    let spec: PodSpec = serde_json::from_slice(&body)
        .map_err(|error| Failure(ApiError::bad_request(format!("the pod can't be read: {error}"))))?;
    run(shared, StatusCode::CREATED, |backend| async move { backend.add_pod(spec).await }).await
}

async fn delete_pod<B: Backend>(
    State(shared): State<Shared<B>>,
    query: Asked<Nothing>,
    name: Result<Path<String>, PathRejection>,
) -> Answer {
    asked(query)?;
    let Path(name) = name.map_err(|error| Failure(ApiError::bad_request(error.body_text())))?;
    run(shared, StatusCode::OK, |backend| async move { backend.delete_pod(name).await }).await
}

async fn ports<B: Backend>(State(shared): State<Shared<B>>, query: Asked<ByName>) -> Answer {
    let ByName { name } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.ports(name).await }).await
}

async fn fdb<B: Backend>(State(shared): State<Shared<B>>, query: Asked<OfFdb>) -> Answer {
    let OfFdb { port, mac } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.fdb(port, mac).await }).await
}

async fn neighbours<B: Backend>(State(shared): State<Shared<B>>, query: Asked<ByAddress>) -> Answer {
    let ByAddress { address } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.neighbours(address).await }).await
}

async fn vteps<B: Backend>(State(shared): State<Shared<B>>, query: Asked<ByNode>) -> Answer {
    let ByNode { node } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.vteps(node).await }).await
}

async fn routes<B: Backend>(State(shared): State<Shared<B>>, query: Asked<OfRoutes>) -> Answer {
    let OfRoutes { r#match: address } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.routes(address).await }).await
}

async fn pins<B: Backend>(State(shared): State<Shared<B>>, query: Asked<OfPins>) -> Answer {
    let OfPins { address, limit } = asked(query)?;
    let limit = limit.unwrap_or(PIN_LIMIT);
    if !(1..=PIN_LIMIT_MAX).contains(&limit) {
        let error = format!("pins: limit={limit}, but 1 to {PIN_LIMIT_MAX} are listed");
        return Err(Failure(ApiError::bad_request(error)));
    }
    run(shared, StatusCode::OK, |backend| async move { backend.pins(address, limit).await }).await
}

async fn flows<B: Backend>(State(shared): State<Shared<B>>, query: Asked<OfFlows>) -> Answer {
    let OfFlows { seconds, limit } = asked(query)?;
    let (seconds, limit) = (seconds.unwrap_or(FLOW_SECONDS), limit.unwrap_or(FLOW_LIMIT));
    if !(1..=FLOW_SECONDS_MAX).contains(&seconds) || !(1..=FLOW_LIMIT_MAX).contains(&limit) {
        let error = format!(
            "flows: seconds={seconds} and limit={limit}, but there are 1 to {FLOW_SECONDS_MAX} seconds and 1 to \
             {FLOW_LIMIT_MAX} flows"
        );
        return Err(Failure(ApiError::bad_request(error)));
    }
    let lasts = Duration::from_secs(seconds.into());
    run(shared, StatusCode::OK, |backend| async move { backend.flows(lasts, limit).await }).await
}

async fn config<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>) -> Answer {
    asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.config().await }).await
}

async fn workers<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>) -> Answer {
    asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.workers().await }).await
}

async fn stats<B: Backend>(State(shared): State<Shared<B>>, query: Asked<Nothing>) -> Answer {
    asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.stats().await }).await
}

async fn drops<B: Backend>(State(shared): State<Shared<B>>, query: Asked<OfDrops>) -> Answer {
    let OfDrops { all } = asked(query)?;
    run(shared, StatusCode::OK, |backend| async move { backend.drops(all).await }).await
}

async fn no_such_path(uri: Uri) -> Failure {
    Failure(ApiError::not_found(format!("there is no {}: GET /v1 lists what there is", uri.path())))
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    let error = format!("{} knows no {method}: GET /v1 lists what there is", uri.path());
    Failure(ApiError::new(ErrorCode::MethodNotAllowed, error))
}
