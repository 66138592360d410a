//! Calls to etcd. One connection at a time: a member that does not answer is left for the next of the list, so that
//! which one is spoken to is known, and a broken one is not asked again and again.

use super::Settings;
use super::proto::{
    AuthenticateRequest, AuthenticateResponse, Done, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, end_of,
};
use crate::store::StoreError;
use futures_util::StreamExt;
use prost::Message;
use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a connection that waits for events is probed, and how long the answer may take: the most that a member
/// which vanished without a word goes unnoticed. etcd closes connections that are probed every 5 s or oftener.
const PROBE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// The largest answer: the list of some hundred thousand leases.
const LARGEST: usize = 64 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may pass.
    Passing(String),
    /// Somebody must mend it.
    Refused(String),
}

/// A connection to one of the members, made when it is needed.
pub(super) struct Client {
    settings: Arc<Settings>,
    /// Which endpoint is, or will be, connected to.
    at: usize,
    channel: Option<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, at: 0, channel: None, token: None }
    }

    /// The failure as the store's user sees it.
    pub(super) fn explain(&self, failure: Failure) -> StoreError {
        let store = format!("etcd at {}", self.settings.endpoints.join(", "));
        match failure {
            Failure::Passing(reason) => StoreError::Unreachable { store, reason },
            Failure::Refused(reason) => StoreError::Refused { store, reason },
        }
    }

    /// Has the next call go to another member.
    pub(super) fn leave(&mut self) {
        self.channel = None;
        self.token = None;
        self.at = (self.at + 1) % self.settings.endpoints.len().max(1);
    }

    pub(super) async fn range(&mut self, key: &str, prefix: bool) -> Result<RangeResponse, Failure> {
        self.unary("/etcdserverpb.KV/Range", range_request(key, prefix)).await
    }

    pub(super) async fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Failure> {
        self.unary("/etcdserverpb.KV/Txn", request).await
    }

    /// A lease of that many seconds: its number, and how many it has got.
    pub(super) async fn grant(&mut self, ttl: i64) -> Result<(i64, i64), Failure> {
        let granted: LeaseGrantResponse =
            self.unary("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl }).await?;
        if !granted.error.is_empty() || granted.id == 0 || granted.ttl < 1 {
            return Err(Failure::Passing(format!("no lease is granted: {}", granted.error)));
        }
        Ok((granted.id, granted.ttl))
    }

    pub(super) async fn revoke(&mut self, id: i64) -> Result<(), Failure> {
        let _: Done = self.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id }).await?;
        Ok(())
    }

    /// How many seconds a lease has left; none if it is gone.
    pub(super) async fn time_to_live(&mut self, id: i64) -> Result<Option<i64>, Failure> {
        let left: LeaseTimeToLiveResponse =
            self.unary("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequest { id }).await?;
        Ok((left.ttl > 0).then_some(left.ttl))
    }

    /// Events of all keys that begin with `prefix`, from a revision on. A member that has lost its cluster ends them.
    pub(super) async fn watch(
        &mut self,
        prefix: &str,
        from: i64,
    ) -> Result<Streaming<WatchResponse>, Failure> {
        let create = WatchCreateRequest {
            key: prefix.into(),
            range_end: end_of(prefix.as_bytes()),
            start_revision: from,
            progress_notify: true,
            fragment: true,
        };
        let mut again = true;
        loop {
            let create = WatchRequest { create: Some(create.clone()) };
            let (mut grpc, token) = match self.ready().await {
                Ok(ready) => ready,
                Err(failed) => {
                    self.judge(failed, &mut again)?;
                    continue;
                }
            };
            let opening = async {
                // The stream of requests stays open: its end would be the watch's.
                let requests = futures_util::stream::iter([create]).chain(futures_util::stream::pending());
                let mut request = Request::new(requests);
                request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
                if let Some(token) = token {
                    request.metadata_mut().insert("token", token);
                }
                let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
                let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
                grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
                Ok::<_, Status>(grpc.streaming(request, path, codec).await?.into_inner())
            };
            match timeout(self.settings.timing.answer, opening).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(status)) => self.judge(status.into(), &mut again)?,
                Err(_) => return Err(self.silent()),
            }
        }
    }

    /// A status that ended a watch.
    pub(super) fn broken(&mut self, status: &Status) -> Failure {
        let failure = failure_of(status);
        self.leave();
        failure
    }

    async fn unary<Q, A>(&mut self, path: &'static str, question: Q) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut again = true;
        loop {
            let (mut grpc, token) = match self.ready().await {
                Ok(ready) => ready,
                Err(failed) => {
                    self.judge(failed, &mut again)?;
                    continue;
                }
            };
            let asking = ask(&mut grpc, token, path, question.clone());
            match timeout(self.settings.timing.answer, asking).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => self.judge(status.into(), &mut again)?,
                Err(_) => return Err(self.silent()),
            }
        }
    }

    fn silent(&mut self) -> Failure {
        let endpoint = self.settings.endpoints.get(self.at).cloned().unwrap_or_default();
        self.leave();
        Failure::Passing(format!("{endpoint} does not answer within {:?}", self.settings.timing.answer))
    }

    /// Whether a failed call is worth another try at once: its token may just have become too old.
    fn judge(&mut self, failed: Failed, again: &mut bool) -> Result<(), Failure> {
        let status = match failed {
            Failed::Answer(status) => status,
            Failed::Other(failure) => return Err(failure),
        };
        if std::mem::take(again) && self.token.is_some() && token_is_old(&status) {
            self.channel = None;
            self.token = None;
            return Ok(());
        }
        let failure = failure_of(&status);
        if matches!(failure, Failure::Passing(_)) {
            self.leave();
        }
        Err(failure)
    }

    /// A connection to speak over, and the token to speak with.
    async fn ready(&mut self) -> Result<(Grpc<Channel>, Option<MetadataValue<Ascii>>), Failed> {
        if self.channel.is_none() {
            let channel = self.connect().await.map_err(Failed::Other)?;
            self.token = self.authenticate(&channel).await?;
            self.channel = Some(channel);
        }
        let channel = self.channel.clone().ok_or_else(|| Status::unavailable("not connected"))?;
        Ok((speak(channel), self.token.clone()))
    }

    /// Connects to the first member from here that takes it.
    async fn connect(&mut self) -> Result<Channel, Failure> {
        let mut reasons = Vec::new();
        for _ in 0..self.settings.endpoints.len() {
            let text = self.settings.endpoints[self.at].clone();
            let channel = match endpoint(&text, &self.settings) {
                // The handshake of TLS is within the time too.
                Ok(endpoint) => match timeout(CONNECT, endpoint.connect()).await {
                    Ok(connected) => connected.map_err(|error| chain(&error)),
                    Err(_) => Err(format!("no connection within {CONNECT:?}")),
                },
                Err(error) => Err(error.to_string()),
            };
            match channel {
                Ok(channel) => return Ok(channel),
                Err(reason) => reasons.push(format!("{text}: {reason}")),
            }
            self.leave();
        }
        Err(Failure::Passing(reasons.join("; ")))
    }

    async fn authenticate(&self, channel: &Channel) -> Result<Option<MetadataValue<Ascii>>, Failed> {
        let Some((name, password)) = self.settings.user.clone() else { return Ok(None) };
        let question = AuthenticateRequest { name, password };
        let path = "/etcdserverpb.Auth/Authenticate";
        let mut grpc = speak(channel.clone());
        let asking = ask::<_, AuthenticateResponse>(&mut grpc, None, path, question);
        let answer = timeout(self.settings.timing.answer, asking).await;
        match answer
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer about user name and password")))
        {
            Ok(answer) => {
                let token = answer.token.parse();
                Ok(Some(token.map_err(|_| Status::internal("the token is no text for a header"))?))
            }
            // A name is no harm where nobody asks for one.
            Err(status) if status.message().contains("authentication is not enabled") => Ok(None),
            Err(status) => Err(Failed::Answer(status)),
        }
    }
}

/// Why a call failed.
enum Failed {
    Answer(Status),
    Other(Failure),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Answer(status)
    }
}

pub(super) fn range_request(key: &str, prefix: bool) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: if prefix { end_of(key.as_bytes()) } else { Vec::new() } }
}

fn speak(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(LARGEST)
}

async fn ask<Q, A>(
    grpc: &mut Grpc<Channel>,
    token: Option<MetadataValue<Ascii>>,
    path: &'static str,
    question: Q,
) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
    let mut request = Request::new(question);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
}

/// An endpoint as it is written, with the certificates as they are now: they may have been renewed.
pub(super) fn endpoint(text: &str, settings: &Settings) -> Result<Endpoint, StoreError> {
    let wrong = |reason: String| StoreError::Settings(format!("etcd endpoint {text}: {reason}"));
    let endpoint = Endpoint::from_shared(text.to_owned())
        .map_err(|error| wrong(format!("{error}; it must be such as https://192.0.2.1:2379")))?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PROBE.0)
        .keep_alive_timeout(PROBE.1);
    if !text.starts_with("https://") {
        return Ok(endpoint);
    }
    // rustls knows no TLS before 1.2.
    let mut tls = ClientTlsConfig::new();
    match &settings.tls.ca {
        Some(path) => tls = tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls = tls.with_native_roots(),
    }
    if let (Some(certificate), Some(key)) = (&settings.tls.certificate, &settings.tls.key) {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    endpoint
        .tls_config(tls)
        .map_err(|error| wrong(format!("its certificates are of no use: {}", chain(&error))))
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path)
        .map_err(|error| StoreError::Settings(format!("cannot read {} for etcd: {error}", path.display())))
}

/// An error with what is behind it: the outermost alone says next to nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        inner = error.source();
    }
    text
}

fn token_is_old(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("auth store is old")
}

fn failure_of(status: &Status) -> Failure {
    let said = match status.source() {
        Some(inner) => format!("{}: {}", status.message(), chain(inner)),
        None => status.message().to_owned(),
    };
    match status.code() {
        Code::PermissionDenied => {
            Failure::Refused(format!("{said}: the user needs a role that reads and writes the prefix"))
        }
        Code::Unauthenticated => Failure::Refused(said),
        Code::InvalidArgument if said.contains("authentication failed") => {
            Failure::Refused(format!("{said}: correct the user name or the password"))
        }
        Code::InvalidArgument if said.contains("user name is empty") => {
            Failure::Refused(format!("{said}: it asks for a user name and a password"))
        }
        Code::Unimplemented => Failure::Refused(format!("{said}: it is no etcd of version 3")),
        _ => Failure::Passing(said),
    }
}
