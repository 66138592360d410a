//! What the daemon says when a request has no success.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The kind of a failure, for programs. In JSON in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request can't be read.
    BadRequest,
    /// 404: no such pod, or no such path.
    NotFound,
    /// 405: the path knows no such method.
    MethodNotAllowed,
    /// 408: the request came too slowly.
    RequestTimeout,
    /// 409: the name, the address or the device is taken.
    Conflict,
    /// 413: the body is longer than [`crate::BODY_LIMIT`].
    TooLarge,
    /// 422: the request can be read, but what it asks for is not valid here.
    Refused,
    /// 500: the daemon failed.
    Internal,
    /// 503: the daemon is not ready for this; try again.
    NotReady,
    /// A code of a later daemon.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Refused => 422,
            Self::Internal | Self::Unknown => 500,
            Self::NotReady => 503,
        }
    }
}

/// Why a request had no success: the body of every answer that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[error("{error}")]
pub struct ApiError {
    /// For a person: what is wrong, where, and what to do.
    pub error: String,
    /// For a program.
    pub code: ErrorCode,
}

impl ApiError {
    /// An error of this kind.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), code }
    }
    /// 400: the request can't be read.
    pub fn bad_request(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, error)
    }
    /// 404: no such thing.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, error)
    }
    /// 409: taken.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, error)
    }
    /// 422: not valid here.
    pub fn refused(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Refused, error)
    }
    /// 500: the daemon failed.
    pub fn internal(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, error)
    }
    /// 503: not ready.
    pub fn not_ready(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotReady, error)
    }
}
