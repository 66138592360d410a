//! Metrics and health over TCP, for Prometheus and for supervisors: `/metrics`, `/healthz`, `/readyz`. Only to be read;
//! connections are guarded as those of the control socket are.
//!
//! `scrape` says what is measured.

mod scrape;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};
use weft_api::ApiError;

use crate::api::{Limits, serve_routes};
use crate::daemon::Client;

pub use scrape::Scrape;

/// How long the daemon's task may take to answer before it counts as stuck.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);
/// How long it may take to say what it has measured. Prometheus itself waits 10 s.
const SCRAPE_WITHIN: Duration = Duration::from_secs(8);
/// How often an address that is taken is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// OpenMetrics text, which Prometheus has understood since 2.5.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a client may take: a few scrapers at a time, on short connections.
const LIMITS: Limits = Limits {
    connections: 16,
    head: Duration::from_secs(5),
    body: Duration::from_secs(1),
    answer: Duration::from_secs(10),
    connection: Duration::from_secs(20),
    stop: Duration::from_millis(500),
};

/// Serves at the address that `listen` holds, or nowhere at `None`, and follows its changes, until the daemon's runtime
/// ends. An address that can't be listened on is a text in `problem`, and is tried again.
pub async fn serve(
    what: Served,
    mut listen: watch::Receiver<Option<SocketAddr>>,
    client: Client,
    problem: watch::Sender<Option<String>>,
) {
    let routes = router(what, client);
    loop {
        let wanted = *listen.borrow_and_update();
        let Some(address) = wanted else {
            problem.send_replace(None);
            changed(&mut listen, wanted).await;
            continue;
        };
        match TcpListener::bind(address).await {
            Ok(listener) => {
                problem.send_replace(None);
                match what {
                    Served::Metrics => info!("metrics: http://{address}/metrics"),
                    Served::Health => info!("health: http://{address}/healthz and /readyz"),
                }
                serve_routes(LIMITS, listener, routes.clone(), changed(&mut listen, wanted)).await;
            }
            Err(error) => {
                let text = format!(
                    "{}: can't listen on {address} ({error}): free it, or set {} in the configuration",
                    what.name(),
                    what.setting()
                );
                let news = problem.borrow().as_ref() != Some(&text);
                if news {
                    warn!("{text}");
                    problem.send_replace(Some(text));
                }
                let _ = timeout(RETRY, changed(&mut listen, wanted)).await;
            }
        }
    }
}

/// What is served at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Metrics and health.
    Metrics,
    /// Health alone, where flanneld's probes look for it.
    Health,
}

impl Served {
    fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Health => "health",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Metrics => "metrics.listen",
            Self::Health => "flannel.healthz",
        }
    }
}

/// Returns when the setting is another than `before`, which may be so already; never once nobody can set it any more.
async fn changed(listen: &mut watch::Receiver<Option<SocketAddr>>, before: Option<SocketAddr>) {
    // The value is looked at before a change is waited for: one that came meanwhile is none to wait for.
    if listen.wait_for(|now| *now != before).await.is_err() {
        std::future::pending().await
    }
}

fn router(what: Served, client: Client) -> Router {
    let routes = match what {
        Served::Metrics => Router::new().route("/metrics", get(metrics)),
        Served::Health => Router::new(),
    };
    routes
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(client)
}

async fn metrics(State(client): State<Client>) -> Response {
    let scrape = match timeout(SCRAPE_WITHIN, client.scrape()).await {
        Ok(Ok(scrape)) => scrape,
        Ok(Err(error)) => return unavailable(error),
        Err(_) => return stuck(SCRAPE_WITHIN),
    };
    match scrape.into_text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            say(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics can't be written: {error}\n"))
        }
    }
}

/// Whether the daemon lives: its task answers, or is not there yet since weftd is still starting.
async fn health(State(client): State<Client>) -> Response {
    match timeout(ALIVE_WITHIN, client.not_ready()).await {
        Ok(Ok(_)) => say(StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(error)) => unavailable(error),
        Err(_) => stuck(ALIVE_WITHIN),
    }
}

/// Whether it can carry traffic: a configuration is in force and the uplink is there.
async fn readiness(State(client): State<Client>) -> Response {
    match timeout(ALIVE_WITHIN, client.not_ready()).await {
        Ok(Ok(reasons)) if reasons.is_empty() => say(StatusCode::OK, "ready\n".to_owned()),
        Ok(Ok(reasons)) => {
            let lines: String = reasons.iter().map(|reason| format!("{reason}\n")).collect();
            say(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{lines}"))
        }
        Ok(Err(error)) => unavailable(error),
        Err(_) => stuck(ALIVE_WITHIN),
    }
}

async fn no_such_path(uri: Uri) -> Response {
    let text = format!("there is no {}: there are /metrics, /healthz and /readyz\n", uri.path());
    say(StatusCode::NOT_FOUND, text)
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let text = format!("{} knows no {method}: it is to be read by GET\n", uri.path());
    let answer = say(StatusCode::METHOD_NOT_ALLOWED, text);
    ([(header::ALLOW, "GET, HEAD")], answer).into_response()
}

fn unavailable(error: ApiError) -> Response {
    say(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
}

fn stuck(waited: Duration) -> Response {
    let text =
        format!("weftd's control task has not answered within {} s: look into its log\n", waited.as_secs());
    say(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn say(status: StatusCode, text: String) -> Response {
    // A health that is kept by somebody in between would be a lie.
    (status, [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, "no-store")], text).into_response()
}
