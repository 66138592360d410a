//! Paths and methods, and what each asks of the [`Backend`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use weft_api::{ApiError, ErrorCode, Index, PodSpec};

use super::Backend;

/// What `GET /v1` lists.
const RESOURCES: [&str; 6] = [
    "GET /v1/status",
    "GET /v1/pods",
    "POST /v1/pods",
    "DELETE /v1/pods/{name}",
    "GET /v1/stats",
    "GET /v1/drops?all={true|false}",
];

/// An [`ApiError`] as an answer.
pub(super) struct Failure(pub(super) ApiError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

struct Shared<B> {
    backend: Arc<B>,
    answer: Duration,
}

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), answer: self.answer }
    }
}

/// All there is. `answer` is the time that the backend has for one call.
pub(super) fn router<B: Backend>(backend: Arc<B>, answer: Duration) -> Router {
    Router::new()
        .route("/v1", get(index))
        .route("/v1/status", get(status::<B>))
        .route("/v1/pods", get(pods::<B>).post(add_pod::<B>))
        .route("/v1/pods/{name}", axum::routing::delete(delete_pod::<B>))
        .route("/v1/stats", get(stats::<B>))
        .route("/v1/drops", get(drops::<B>))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(Shared { backend, answer })
}

/// Runs a call of the backend in a task of its own: a client that goes away, or an answer that comes too late,
/// interrupts nothing half-way, and a panic ends in the task.
async fn run<T: Serialize + Send + 'static>(
    limit: Duration,
    success: StatusCode,
    call: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<Response, Failure> {
    match timeout(limit, tokio::spawn(call)).await {
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

async fn index() -> Json<Index> {
    Json(Index {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resources: RESOURCES.map(str::to_owned).to_vec(),
    })
}

async fn status<B: Backend>(State(shared): State<Shared<B>>) -> Result<Response, Failure> {
    let Shared { backend, answer } = shared;
    run(answer, StatusCode::OK, async move { backend.status().await }).await
}

async fn pods<B: Backend>(State(shared): State<Shared<B>>) -> Result<Response, Failure> {
    let Shared { backend, answer } = shared;
    run(answer, StatusCode::OK, async move { backend.pods().await }).await
}

/// The body counts, not its `Content-Type`: `curl -d` says "form" of everything.
async fn add_pod<B: Backend>(State(shared): State<Shared<B>>, body: Bytes) -> Result<Response, Failure> {
    let spec: PodSpec = serde_json::from_slice(&body)
        .map_err(|error| Failure(ApiError::bad_request(format!("the pod can't be read: {error}"))))?;
    let Shared { backend, answer } = shared;
    run(answer, StatusCode::CREATED, async move { backend.add_pod(spec).await }).await
}

async fn delete_pod<B: Backend>(
    State(shared): State<Shared<B>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(name) = name.map_err(|error| Failure(ApiError::bad_request(error.body_text())))?;
    let Shared { backend, answer } = shared;
    run(answer, StatusCode::OK, async move { backend.delete_pod(name).await }).await
}

async fn stats<B: Backend>(State(shared): State<Shared<B>>) -> Result<Response, Failure> {
    let Shared { backend, answer } = shared;
    run(answer, StatusCode::OK, async move { backend.stats().await }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropsQuery {
    #[serde(default)]
    all: bool,
}

async fn drops<B: Backend>(
    State(shared): State<Shared<B>>,
    query: Result<Query<DropsQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(DropsQuery { all }) =
        query.map_err(|error| Failure(ApiError::bad_request(error.body_text())))?;
    let Shared { backend, answer } = shared;
    run(answer, StatusCode::OK, async move { backend.drops(all).await }).await
}

async fn no_such_path(uri: Uri) -> Failure {
    Failure(ApiError::not_found(format!("there is no {}: GET /v1 lists what there is", uri.path())))
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    let error = format!("{} knows no {method}: GET /v1 lists what there is", uri.path());
    Failure(ApiError::new(ErrorCode::MethodNotAllowed, error))
}
