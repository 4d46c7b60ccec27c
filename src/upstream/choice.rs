//! Why an upstream was chosen for a request, or none was.

/// Why an upstream was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The upstream was on the live list.
    Live,
    /// The upstream is ejected, and this request tries it.
    Trial,
    /// No upstream on the live list was left for the request.
    FailOpen,
}

/// Why no upstream was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// No upstream is left that was not tried and may be chosen.
    Nobody,
    /// All of those are at their concurrency limit, or other requests wait for them already.
    Full,
}
