//! The one table of problem codes: every door answers with these, each in its own shape. A code says what the caller can do
//! (mend the input, sign in, wait, give up); its text never changes once a client may depend on it.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $byte:literal, $text:literal, $status:literal, $title:literal;)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $variant = $byte,)* }

        impl Code {
            /// Every code, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The spelling in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The HTTP status (RFC 9110) it travels under.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The RFC 9457 title: short, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// From a frame's number.
            pub const fn from_u16(number: u16) -> Option<Self> {
                match number { $($byte => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for Code {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(self.as_str())
            }
        }
    };
}

codes! {
    /// The input is not well-formed, or a field is out of range.
    InvalidInput = 1, "invalid_input", 400, "The request is not valid";
    /// Not signed in, or the token is wrong or out of date.
    Unauthenticated = 2, "unauthenticated", 401, "Sign-in needed";
    /// The grant was revoked.
    Revoked = 3, "revoked", 401, "This session was ended";
    /// Signed in, but not allowed.
    Forbidden = 4, "forbidden", 403, "Not allowed";
    /// There is no such thing.
    NotFound = 5, "not_found", 404, "Not found";
    /// The path is known, the method is not.
    MethodNotAllowed = 6, "method_not_allowed", 405, "Method not allowed";
    /// Somebody has it already.
    AlreadyExists = 7, "already_exists", 409, "Already exists";
    /// Going back, and the user's strategy does not allow it unasked.
    Conflict = 8, "conflict", 409, "Behind the stored progress";
    /// The body or frame is larger than its kind may be.
    TooLarge = 9, "too_large", 413, "Too large";
    /// The body's type is not one this server reads.
    UnsupportedMediaType = 10, "unsupported_media_type", 415, "Unsupported media type";
    /// Well-formed, but the rules forbid it.
    Unprocessable = 11, "unprocessable", 422, "Not possible";
    /// More than the limit allows; wait as told.
    RateLimited = 12, "rate_limited", 429, "Too many requests";
    /// A queue is full; wait and try again. Nothing was changed.
    Busy = 13, "busy", 503, "The server is busy";
    /// A dependency that this needs is away; wait and try again. Nothing was changed.
    Unavailable = 14, "unavailable", 503, "Temporarily not available";
    /// The server holds as many connections as it may.
    Capacity = 15, "capacity", 503, "At capacity";
    /// The server is stopping; connect again.
    ShuttingDown = 16, "shutting_down", 503, "The server is stopping";
    /// Not part of this server yet.
    NotImplemented = 17, "not_implemented", 501, "Not available in this version";
    /// A defect of the server. Never the answer to bad input.
    Internal = 18, "internal", 500, "Internal error";
    /// The chapter lies beyond the end of a series whose total is known.
    ChapterOutOfRange = 19, "chapter_out_of_range", 400, "Chapter out of range";
    /// The device sequence is older than the window in which a retry can be recognised.
    SeqTooOld = 20, "seq_too_old", 409, "Device sequence too old";
    /// The frame's kind is unknown and not marked ignorable.
    UnknownKind = 21, "unknown_kind", 400, "Unknown message kind";
    /// The stream is out of step; the connection closes.
    BadFrame = 22, "bad_frame", 400, "Broken frame";
    /// The client speaks a version of the protocol that this server does not.
    UnsupportedVersion = 23, "unsupported_version", 400, "Unsupported protocol version";
    /// Nothing was heard for too long.
    IdleTimeout = 24, "idle_timeout", 408, "Idle for too long";
    /// The consumer did not keep up; connect again with the resume token.
    SlowConsumer = 25, "slow_consumer", 503, "Too slow a reader";
    /// The change was made and is in the journal, and the database, which was asked for, did not have it in time.
    NotInDatabase = 26, "not_in_database", 503, "Not yet in the database";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_number_and_one_spelling() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_u16(*code as u16), Some(*code));
            assert!(Code::ALL[at + 1..].iter().all(|other| other.as_str() != code.as_str()));
        }
    }
}
