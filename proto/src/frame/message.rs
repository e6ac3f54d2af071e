//! Every frame that travels in a direction, decoded. The server matches on `ClientFrame`, a client on `ServerFrame`; what the
//! other side may not send is an error that is answered, not a panic.

use super::access::RawFrame;
use super::error::PayloadError;
use super::header::Kind;
use super::notice::{Notice, NoticeAck};
use super::progress::{Ack, ProgressEntry, SetProgress};
use super::reject::Reject;
use super::session::{Bye, Hello, Ping, Pong, Welcome};
use super::state::{CatchUp, CaughtUp, Get, State};

/// What a client sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientFrame<'a> {
    /// Who it is.
    Hello(Hello<'a>),
    /// It has read up to here.
    SetProgress(SetProgress),
    /// How far is it?
    Get(Get),
    /// What did it miss?
    CatchUp(CatchUp),
    /// It has seen a notice.
    NoticeAck(NoticeAck),
    /// Are we there?
    Ping(Ping),
    /// It is there.
    Pong(Pong),
    /// It leaves.
    Bye(Bye<'a>),
    /// Unknown here and marked ignorable: skip it.
    Ignored,
}

/// What a server sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerFrame<'a> {
    /// Who we are, and the limits.
    Welcome(Welcome<'a>),
    /// Stored.
    Ack(Ack),
    /// Refused.
    Reject(Reject<'a>),
    /// Another of our connections has read up to here; header.seq is the position.
    Progress(ProgressEntry),
    /// An answer to Get or CatchUp.
    State(State<'a>),
    /// The end of an answer to CatchUp.
    CaughtUp(CaughtUp),
    /// Something happened to a series; header.seq is the position.
    Notice(Notice<'a>),
    /// Are we there?
    Ping(Ping),
    /// It is there.
    Pong(Pong),
    /// It leaves.
    Bye(Bye<'a>),
    /// Unknown here and marked ignorable: skip it.
    Ignored,
}

impl<'a> RawFrame<'a> {
    /// Reads the payload of a frame that a client sent.
    #[inline]
    pub fn from_client(&self) -> Result<ClientFrame<'a>, PayloadError> {
        let Some(kind) = self.kind() else { return self.unknown(ClientFrame::Ignored) };
        Ok(match kind {
            Kind::SetProgress => ClientFrame::SetProgress(SetProgress::decode(self.payload)?),
            Kind::Hello => ClientFrame::Hello(Hello::decode(self.payload)?),
            Kind::Get => ClientFrame::Get(Get::decode(self.payload)?),
            Kind::CatchUp => ClientFrame::CatchUp(CatchUp::decode(self.payload)?),
            Kind::NoticeAck => ClientFrame::NoticeAck(NoticeAck::decode(self.payload)?),
            Kind::Ping => ClientFrame::Ping(Ping::decode(self.payload)?),
            Kind::Pong => ClientFrame::Pong(Pong::decode(self.payload)?),
            Kind::Bye => ClientFrame::Bye(Bye::decode(self.payload)?),
            Kind::Welcome | Kind::Ack | Kind::Reject | Kind::Progress | Kind::State | Kind::CaughtUp | Kind::Notice => {
                return Err(PayloadError::Direction { kind });
            }
        })
    }

    /// Reads the payload of a frame that a server sent.
    #[inline]
    pub fn from_server(&self) -> Result<ServerFrame<'a>, PayloadError> {
        let Some(kind) = self.kind() else { return self.unknown(ServerFrame::Ignored) };
        Ok(match kind {
            Kind::Ack => ServerFrame::Ack(Ack::decode(self.payload)?),
            Kind::Progress => ServerFrame::Progress(ProgressEntry::decode(self.payload)?),
            Kind::Welcome => ServerFrame::Welcome(Welcome::decode(self.payload)?),
            Kind::Reject => ServerFrame::Reject(Reject::decode(self.payload)?),
            Kind::State => ServerFrame::State(State::decode(self.payload)?),
            Kind::CaughtUp => ServerFrame::CaughtUp(CaughtUp::decode(self.payload)?),
            Kind::Notice => ServerFrame::Notice(Notice::decode(self.payload)?),
            Kind::Ping => ServerFrame::Ping(Ping::decode(self.payload)?),
            Kind::Pong => ServerFrame::Pong(Pong::decode(self.payload)?),
            Kind::Bye => ServerFrame::Bye(Bye::decode(self.payload)?),
            Kind::Hello | Kind::SetProgress | Kind::Get | Kind::CatchUp | Kind::NoticeAck => {
                return Err(PayloadError::Direction { kind });
            }
        })
    }

    #[cold]
    fn unknown<T>(&self, ignored: T) -> Result<T, PayloadError> {
        if self.header.ignorable() { Ok(ignored) } else { Err(PayloadError::UnknownKind { kind: self.header.kind }) }
    }
}
