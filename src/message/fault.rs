//! Why a head is refused, and the answer that follows.

use super::{BadResponse, Reply};

/// Why a head is refused, before it is known whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It breaks the grammar.
    Syntax(&'static str),
    /// Its first line is over the limit.
    LineTooLong,
    /// It is over the limit.
    HeadTooLong,
    /// It has too many fields.
    TooManyFields,
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Syntax(why) => Reply::bad(why),
            Fault::LineTooLong => Reply::closing(414, "the first line is too long"),
            Fault::HeadTooLong => Reply::closing(431, "the head is too long"),
            Fault::TooManyFields => Reply::closing(431, "the head has too many fields"),
        }
    }
}

impl From<Fault> for BadResponse {
    fn from(fault: Fault) -> Self {
        BadResponse(match fault {
            Fault::Syntax(why) => why,
            Fault::LineTooLong => "the response's first line is too long (--max-head allows more)",
            Fault::HeadTooLong => "the response's head is too long (--max-head allows more)",
            Fault::TooManyFields => "the response has too many fields (--max-fields allows more)",
        })
    }
}
