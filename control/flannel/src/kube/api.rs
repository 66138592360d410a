//! What is said to the API server: get, list, watch and patch. It has four things in mind: pages instead of one huge
//! answer, an end to every wait, the server's word on when to come again, and objects read one by one, so that a wrong
//! one costs itself only.

use super::access::{Access, AccessError, with_causes};
use super::object::{List, Refusal};
use super::patience::Patience;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// How many bytes an answer may have: a page of the largest objects that a server takes.
const LONGEST_ANSWER: usize = 256 << 20;
/// How many bytes one event of a watch may have: a server takes objects of some 1.5 MiB.
const LONGEST_EVENT: usize = 16 << 20;
/// Of an answer that is an error, this is enough.
const LONGEST_REFUSAL: usize = 64 << 10;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// No connection, or one that broke.
    #[error("{0}")]
    Broken(String),
    /// Nothing came for so long.
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    /// The server's own word.
    #[error("{0}")]
    Refused(Refusal),
    /// What came is not what was asked for.
    #[error("an answer that is none: {0}")]
    Garbled(String),
    /// Our own files are not in order.
    #[error("{0}")]
    Access(String),
}

impl ApiError {
    /// The resource version that was asked for is no more, and only a new list helps.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_gone())
    }

    /// What was asked for does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == StatusCode::NOT_FOUND.as_u16())
    }

    /// We may not do that, or are not who we say: somebody must mend it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused(refusal) if matches!(refusal.code, 401 | 403))
    }

    /// Errors of one kind are the same trouble, whatever their words are: a server that goes away refuses connections
    /// after it has broken them.
    pub(super) fn kind(&self) -> u16 {
        match self {
            Self::Broken(_) | Self::Silent(_) => 0,
            Self::Garbled(_) => 1,
            Self::Access(_) => 2,
            Self::Refused(refusal) => refusal.code,
        }
    }

    /// When the server wants us to come again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

/// A collection of objects, or one of them.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    /// Such as `/api/v1/nodes`.
    pub(super) path: String,
    /// As `fieldSelector`.
    pub(super) fields: Option<String>,
}

/// The API server.
pub(super) struct Api {
    access: Access,
    patience: Patience,
    client: Client,
    url: String,
}

impl Api {
    pub(super) async fn new(access: Access, patience: Patience) -> Result<Self, AccessError> {
        let (client, url) = access.client(patience.answer).await?;
        Ok(Self { access, patience, client, url })
    }

    /// The same, whose credentials are renewed apart.
    pub(super) fn twin(&self) -> Self {
        Self {
            access: self.access.clone(),
            patience: self.patience,
            client: self.client.clone(),
            url: self.url.clone(),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Reads certificates and credentials again: an error may have come from old ones.
    pub(super) async fn renew(&mut self) -> Result<(), ApiError> {
        let made = self.access.client(self.patience.answer).await;
        (self.client, self.url) = made.map_err(|error| ApiError::Access(error.to_string()))?;
        Ok(())
    }

    /// One object, as its JSON.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>, ApiError> {
        let response = self.send(request(Method::GET, path, None)).await?;
        self.whole(response).await
    }

    /// A page of a list, or with `limit` 0 all of it, as the server will.
    pub(super) async fn page(
        &self,
        of: &Collection,
        limit: usize,
        next: Option<&str>,
    ) -> Result<Vec<u8>, ApiError> {
        let mut query = Query::of(of);
        if limit > 0 {
            query.add("limit", &limit.to_string());
        }
        if let Some(next) = next {
            query.add("continue", next);
        }
        self.get(&query.0).await
    }

    /// The changes since a version.
    pub(super) async fn watch(&self, of: &Collection, since: &str) -> Result<Lines, ApiError> {
        let mut query = Query::of(of);
        let seconds = self.patience.watch.as_secs().max(1);
        query.add("watch", "true");
        query.add("allowWatchBookmarks", "true");
        query.add("resourceVersion", since);
        query.add("timeoutSeconds", &seconds.to_string());
        let response = self.send(request(Method::GET, &query.0, None)).await?;
        Ok(Lines { body: response.into_body(), text: Vec::new(), taken: 0, silence: self.patience.silence })
    }

    /// A strategic merge patch, as flannel writes.
    pub(super) async fn patch(&self, path: &str, patch: String) -> Result<Vec<u8>, ApiError> {
        let response = self.send(request(Method::PATCH, path, Some(patch))).await?;
        self.whole(response).await
    }

    /// The answer, if it is a success.
    async fn send(&self, request: Result<Request<Body>, http::Error>) -> Result<Response<Body>, ApiError> {
        let request = request.map_err(|error| ApiError::Broken(error.to_string()))?;
        let response = self.in_time(self.client.send(request)).await?;
        let response = response.map_err(|error| ApiError::Broken(with_causes(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let text = self.collect(body, LONGEST_REFUSAL).await.unwrap_or_default();
        let retry_after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        Err(ApiError::Refused(Refusal::of_answer(head.status, retry_after, &text)))
    }

    async fn whole(&self, response: Response<Body>) -> Result<Vec<u8>, ApiError> {
        self.collect(response.into_body(), LONGEST_ANSWER).await
    }

    async fn collect(&self, mut body: Body, most: usize) -> Result<Vec<u8>, ApiError> {
        let mut text = Vec::new();
        while let Some(frame) = self.in_time(body.frame()).await? {
            let frame = frame.map_err(|error| ApiError::Broken(with_causes(&error)))?;
            let Some(data) = frame.data_ref() else { continue };
            if text.len() + data.len() > most {
                return Err(ApiError::Garbled(format!("longer than {most} bytes")));
            }
            text.extend_from_slice(data);
        }
        Ok(text)
    }

    async fn in_time<T>(&self, what: impl Future<Output = T>) -> Result<T, ApiError> {
        timeout(self.patience.answer, what).await.map_err(|_| ApiError::Silent(self.patience.answer))
    }
}

/// The page as a list.
pub(super) fn list_of(text: &[u8]) -> Result<List<'_>, ApiError> {
    serde_json::from_slice(text).map_err(|error| ApiError::Garbled(error.to_string()))
}

fn request(method: Method, path: &str, patch: Option<String>) -> Result<Request<Body>, http::Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("weftd/", env!("CARGO_PKG_VERSION")));
    match patch {
        Some(patch) => request
            .header(header::CONTENT_TYPE, "application/strategic-merge-patch+json")
            .body(Body::from(patch.into_bytes())),
        None => request.body(Body::empty()),
    }
}

/// A path with its query.
struct Query(String);

impl Query {
    fn of(collection: &Collection) -> Self {
        let mut query = Self(collection.path.clone());
        if let Some(fields) = &collection.fields {
            query.add("fieldSelector", fields);
        }
        query
    }

    fn add(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(key);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(char::from(byte))
                }
                // Writing to a string can't fail.
                other => drop(write!(self.0, "%{other:02X}")),
            }
        }
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    text: Vec<u8>,
    /// Bytes of `text` that were given out.
    taken: usize,
    silence: Duration,
}

impl Lines {
    /// The next line. None: the server has ended the watch. What stands behind the last end of a line is no line.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, ApiError> {
        const KEPT: usize = 256 << 10;
        self.text.drain(..self.taken);
        self.taken = 0;
        if self.text.is_empty() && self.text.capacity() > KEPT {
            self.text = Vec::new();
        }
        let mut searched = 0;
        loop {
            if let Some(end) = self.text[searched..].iter().position(|byte| *byte == b'\n') {
                self.taken = searched + end + 1;
                return Ok(Some(&self.text[..searched + end]));
            }
            searched = self.text.len();
            if searched > LONGEST_EVENT {
                return Err(ApiError::Garbled(format!("an event longer than {LONGEST_EVENT} bytes")));
            }
            let frame = timeout(self.silence, self.body.frame()).await;
            match frame.map_err(|_| ApiError::Silent(self.silence))? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    self.text.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]))
                }
                Some(Err(error)) => return Err(ApiError::Broken(with_causes(&error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        let of = Collection { path: "/api/v1/pods".to_owned(), fields: Some("spec.nodeName=a&b".to_owned()) };
        let mut query = Query::of(&of);
        query.add("continue", "x+/=ä");
        assert_eq!(query.0, "/api/v1/pods?fieldSelector=spec.nodeName%3Da%26b&continue=x%2B%2F%3D%C3%A4");
    }
}
