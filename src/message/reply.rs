//! Answers of the balancer's own.

/// An answer that no upstream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Why, in one line, for the answer's body and the log; empty if nothing is wrong.
    pub why: &'static str,
    /// Whether the client's connection must be closed: the request was not well framed, or its body is
    /// not read, so what follows it cannot be trusted (rule 9).
    pub close: bool,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// Whether `Allow` lists the methods that are served (RFC 9110 §10.2.1).
    pub allow: bool,
}

impl Reply {
    /// 400: the message breaks the grammar, or is ambiguous.
    pub const fn bad(why: &'static str) -> Self {
        Reply::closing(400, why)
    }

    /// An answer after which the connection is closed.
    pub const fn closing(status: u16, why: &'static str) -> Self {
        Reply { status, why, close: true, retry_after: None, allow: false }
    }

    /// An answer to a request that was well framed: the connection may be used again.
    pub const fn keeping(status: u16, why: &'static str) -> Self {
        Reply { close: false, ..Reply::closing(status, why) }
    }

    /// The answer to `OPTIONS` that was meant for the balancer (RFC 9110 §9.3.7).
    pub const fn options() -> Self {
        Reply::keeping(200, "").with_allow()
    }

    /// The same answer with `Allow`.
    pub const fn with_allow(self) -> Self {
        Reply { allow: true, ..self }
    }

    /// The same answer with `Retry-After`.
    pub const fn with_retry_after(self, seconds: u64) -> Self {
        Reply { retry_after: Some(seconds), ..self }
    }
}
