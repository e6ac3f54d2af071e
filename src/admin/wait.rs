//! Waits for a future on a plain thread: the admin socket and the command line have no executor and need none.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread until the future is done. Never to be called on a shard.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_that_another_thread_finishes_is_waited_for() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut polled = false;
        let thread = std::thread::spawn(move || {
            let waker: std::task::Waker = receiver.recv().unwrap();
            waker.wake();
        });
        let answer = block_on(std::future::poll_fn(|context| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(7);
            }
            sender.send(context.waker().clone()).unwrap();
            Poll::Pending
        }));
        thread.join().unwrap();
        assert_eq!(answer, 7);
    }
}
