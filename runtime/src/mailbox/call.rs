//! Calls: the table of those under way, the future of one, and the way to answer it.
//!
//! It promises that every call ends, and that answers on their way never exceed the caller's table: a call that nobody
//! waits for any more keeps its place until its answer has come.

use std::{
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::Inner;

/// Which pending call of the sender an answer belongs to: its place in the sender's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallId(pub(super) u32);

/// A call that has not been answered; one that is forgotten keeps its place until it is, so that answers on their way
/// never exceed the table.
pub(super) struct PendingCall<Rep> {
    pub(super) to: usize,
    pub(super) state: CallState<Rep>,
}

pub(super) enum CallState<Rep> {
    Waiting(Option<Waker>),
    Forgotten,
    /// With an answer, or `None` for abandoned.
    Ended(Option<Rep>),
}

/// A call's future.
pub(super) struct Waiting<Req, Rep> {
    pub(super) inner: Rc<Inner<Req, Rep>>,
    pub(super) id: CallId,
    /// The request is on its way, so an answer will come.
    pub(super) sent: bool,
}

impl<Req, Rep> Future for Waiting<Req, Rep> {
    type Output = Option<Rep>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Rep>> {
        let mut calls = self.inner.calls.borrow_mut();
        let state = &mut calls[self.id.0 as usize].state;
        match std::mem::replace(state, CallState::Waiting(None)) {
            CallState::Ended(answer) => {
                *state = CallState::Ended(None);
                Poll::Ready(answer)
            }
            CallState::Waiting(_) | CallState::Forgotten => {
                *state = CallState::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<Req, Rep> Drop for Waiting<Req, Rep> {
    fn drop(&mut self) {
        let CallId(slot) = self.id;
        {
            let mut calls = self.inner.calls.borrow_mut();
            let state = &mut calls[slot as usize].state;
            if self.sent && matches!(state, CallState::Waiting(_)) {
                *state = CallState::Forgotten;
                return;
            }
        }
        self.inner.forget(slot);
    }
}

/// The way to answer one call. Dropping it tells the caller that the call was abandoned.
pub struct ReplyTo<Req, Rep> {
    /// `None` once answered.
    pub(super) inner: Option<Rc<Inner<Req, Rep>>>,
    pub(super) to: usize,
    pub(super) call: CallId,
}

impl<Req, Rep> ReplyTo<Req, Rep> {
    /// Answers the call. Never refused: room was reserved by the caller.
    pub fn send(mut self, reply: Rep) {
        if let Some(inner) = self.inner.take() {
            inner.stage_answer(self.to, self.call, Some(reply));
        }
    }
}

impl<Req, Rep> fmt::Debug for ReplyTo<Req, Rep> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReplyTo").field("to", &self.to).finish_non_exhaustive()
    }
}

impl<Req, Rep> Drop for ReplyTo<Req, Rep> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.stage_answer(self.to, self.call, None);
        }
    }
}
