//! weftd, which may be away: then what was deleted is noted down for when it comes back.

use std::time::Duration;

use weft_api::blocking::{Client, Failure};
use weft_api::{ApiError, ErrorCode, Pod, PodSpec, is_pod_name};
use weft_node::{Deleted, Notes};

use crate::conf::Conf;
use crate::error::{Error, code};
use crate::say;

/// How long an ADD may take: longer than weftd gives itself.
const ADD: Duration = Duration::from_secs(40);
/// How long everything else may. A DELETE that takes longer is noted down.
const ASK: Duration = Duration::from_secs(5);

/// The daemon.
pub(crate) struct Weftd {
    asking: Client,
    adding: Client,
    deleted: Deleted,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The pod is gone from weftd.
    Done,
    /// weftd is away: it forgets the pod when it starts, or when it is next asked something.
    Noted,
}

/// As an error of CNI: `away` where weftd can't be reached, or is not ready.
fn error(failure: &Failure, away: u64) -> Error {
    let code = match failure {
        Failure::Unreachable { .. } | Failure::NoAnswer { .. } => away,
        Failure::Api(ApiError { code: ErrorCode::NotReady, .. }) => away,
        Failure::Api(ApiError { code: ErrorCode::BadRequest | ErrorCode::Refused, .. }) => code::CONFIG,
        Failure::NotUnderstood { .. } | Failure::Api(_) => code::WEFTD,
    };
    let error = Error::new(code, failure);
    match failure {
        Failure::Unreachable { .. } => error.with("start weftd on this node, or see why it does not run"),
        Failure::NoAnswer { .. } => error.with("see weftd's log on this node"),
        _ => error,
    }
}

impl Weftd {
    pub(crate) fn new(conf: &Conf) -> Self {
        let socket = conf.weftd_socket();
        Self {
            asking: Client::new(&socket, ASK),
            adding: Client::new(&socket, ADD),
            deleted: Deleted::of(&conf.state_dir()),
        }
    }

    /// Whether weftd answers.
    pub(crate) fn answers(&self) -> Result<(), Error> {
        self.asking.status().map(|_| ()).map_err(|failure| error(&failure, code::NOT_AVAILABLE_LIMITED))
    }

    /// The pod of this name. What was noted down is heeded first.
    pub(crate) fn pod(&self, name: &str) -> Result<Option<Pod>, Error> {
        self.heed()?;
        self.asking.pod(name).map_err(|failure| error(&failure, code::TRY_AGAIN))
    }

    /// All pods.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>, Error> {
        self.heed()?;
        let pods = self.asking.pods().map_err(|failure| error(&failure, code::TRY_AGAIN))?;
        Ok(pods.pods)
    }

    /// Adds a pod; on return its port forwards. Of an error that says nothing of it, the pod may be there.
    pub(crate) fn add(&self, spec: &PodSpec) -> Result<Pod, (Error, bool)> {
        self.adding.add_pod(spec).map_err(|failure| {
            let may_be_there = match &failure {
                Failure::Unreachable { .. } => false,
                Failure::Api(api) => api.code == ErrorCode::Internal,
                Failure::NoAnswer { .. } | Failure::NotUnderstood { .. } => true,
            };
            (error(&failure, code::TRY_AGAIN), may_be_there)
        })
    }

    /// Deletes a pod; one that is not there is fine, and so is a weftd that is not there.
    pub(crate) fn delete(&self, name: &str) -> Result<Deletion, Error> {
        // Who can't be told of others can't be told of this one either.
        let heeded = self.heed();
        if heeded.is_ok() && self.try_delete(name)?.is_ok() {
            return Ok(Deletion::Done);
        }
        let notes = self.deleted.lock().map_err(|error| Error::new(code::IO, error))?;
        notes.add(name).map_err(|error| Error::new(code::IO, error))?;
        // It may have come meanwhile, and have read the notes before this one.
        match self.try_delete(name)? {
            Ok(()) => self.heeded(&notes, name).map(|()| Deletion::Done),
            Err(_) => Ok(Deletion::Noted),
        }
    }

    /// Whether the pod is gone, or why weftd can't say so now.
    fn try_delete(&self, name: &str) -> Result<Result<(), Error>, Error> {
        match self.asking.delete_pod(name) {
            Ok(_) | Err(Failure::Api(ApiError { code: ErrorCode::NotFound, .. })) => Ok(Ok(())),
            Err(failure) => match error(&failure, code::TRY_AGAIN) {
                away if away.code == code::TRY_AGAIN => Ok(Err(away)),
                error => Err(error),
            },
        }
    }

    /// Deletes what was noted down while weftd was away. What weftd refuses stays noted, is said, and stops nothing else.
    pub(crate) fn heed(&self) -> Result<(), Error> {
        let io = |error: weft_node::Error| Error::new(code::IO, error);
        // Most times there is nothing, and no lock to wait for.
        if self.deleted.names().map_err(io)?.is_empty() {
            return Ok(());
        }
        let notes = self.deleted.lock().map_err(io)?;
        for name in notes.names().map_err(io)? {
            if !is_pod_name(&name) {
                say(Some(format!("a note that is none is among those of deleted pods: {name:?}; remove it")));
                continue;
            }
            match self.try_delete(&name) {
                Ok(gone) => {
                    gone?;
                    self.heeded(&notes, &name)?;
                }
                Err(error) => {
                    say(Some(format!("the pod {name:?} of an earlier DEL is still there: {error}")))
                }
            }
        }
        Ok(())
    }

    fn heeded(&self, notes: &Notes<'_>, name: &str) -> Result<(), Error> {
        notes.remove(name).map_err(|error| Error::new(code::IO, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_note_that_weftd_refuses_stops_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, state) = (folder.path().join("weftd.sock"), folder.path().join("state"));
        let listener = UnixListener::bind(&socket).unwrap();
        // As much of weftd as is needed; it ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut first = String::new();
                stream.read_line(&mut first).unwrap();
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                let refused = serde_json::to_string(&ApiError::bad_request("it is the file's")).unwrap();
                let (status, body) = match first.split(' ').nth(1) {
                    Some("/v1/pods?name=c1-eth0") => ("200 OK", r#"{"pods":[]}"#.to_owned()),
                    Some("/v1/pods/gone") => {
                        let gone = ApiError { code: ErrorCode::NotFound, ..ApiError::bad_request("") };
                        ("404 Not Found", serde_json::to_string(&gone).unwrap())
                    }
                    _ => ("400 Bad Request", refused),
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        let deleted = Deleted::of(&state);
        for name in ["a-file-pod", "gone"] {
            deleted.lock().unwrap().add(name).unwrap();
        }
        std::fs::write(state.join("deleted/no name"), "").unwrap();
        let asking = Client::new(&socket, ASK);
        let weftd = Weftd { adding: asking.clone(), asking, deleted };
        assert!(weftd.pod("c1-eth0").unwrap().is_none());
        // What was heeded has gone, the rest is said again.
        assert_eq!(weftd.deleted.names().unwrap(), ["a-file-pod", "no name"]);
    }
}
