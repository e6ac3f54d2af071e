//! One HTTP connection from accept to its end: TLS or plain by its first byte, HTTP/1.1 or HTTP/2 by its first line, and
//! the times it must keep. hyper has no timers of ours; the watch closes what is late.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{HeaderValue, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::net::{PollStream, TcpStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::service;
use crate::admission::{Door, Pass, Refusal};
use crate::shard::{LINGER_MS, Shard, TURN_AWAY_MS, Watch};
use crate::stream::{Rewind, Stream};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;
/// Streams that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 128;
/// At a drain, how long a connection that has not asked yet may take to do so.
const FIRST_REQUEST: Duration = Duration::from_millis(300);

/// A connection, as its requests see it.
pub(crate) struct Visit {
    pub(crate) shard: Rc<Shard>,
    pub(crate) peer: IpAddr,
    pub(crate) on_loopback: bool,
    pub(crate) from_proxy: bool,
    /// There is no place for it: its first request is answered with that and is its last.
    pub(crate) turned_away: bool,
    watch: Rc<Watch>,
    in_flight: Cell<u32>,
    served: Cell<u64>,
    /// HTTP/1.1 between requests: the next byte begins a header, which has its own time.
    between: Cell<bool>,
    id: u64,
}

thread_local! {
    static CONNECTIONS: Cell<u64> = const { Cell::new(0) };
    static STATUSES: RefCell<[Option<metrics::Counter>; 6]> = const { RefCell::new([const { None }; 6]) };
}

impl Visit {
    /// Ids that no other connection of this process gives out.
    pub(crate) fn new_request_id(&self) -> HeaderValue {
        let shard = self.shard.context.id;
        let text = format!("{:x}-{shard}-{:x}-{:x}", self.shard.plan.boot, self.id, self.served.get());
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }

    /// Counts an answer by the class of its status.
    pub(crate) fn count(&self, status: StatusCode) {
        const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let class = usize::from(status.as_u16() / 100).min(5);
        STATUSES.with_borrow_mut(|counters| {
            let make = || metrics::counter!("mangahub_http_responses_total", "status" => CLASSES[class]);
            counters[class].get_or_insert_with(make).increment(1);
        });
    }

    fn request_begins(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.served.set(self.served.get() + 1);
        self.between.set(false);
        self.watch.expect_nothing();
    }

    fn request_ends(&self, http2: bool) {
        self.in_flight.set(self.in_flight.get() - 1);
        if self.in_flight.get() > 0 {
            return;
        }
        if self.turned_away {
            // It holds a place among few.
            self.watch.expect(&self.shard, LINGER_MS, Refusal::Idle);
            self.watch.nudge.raise();
        } else {
            self.between.set(!http2);
            self.watch.expect(&self.shard, self.shard.plan.config.limits.http_idle_timeout_ms, Refusal::Idle);
            self.watch.polite();
        }
    }
}

/// Ends a request however its future ends.
struct InFlight {
    visit: Rc<Visit>,
    http2: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.visit.request_ends(self.http2);
    }
}

/// Serves a connection until it ends. One without a pass is told that there is no place for it.
pub(crate) async fn run(shard: Rc<Shard>, stream: TcpStream, peer: SocketAddr, pass: Option<Pass>) {
    let on_loopback = stream.local_addr().ip().to_canonical().is_loopback();
    let Ok(stream) = stream.into_poll() else { return };
    let watched = shard.watch(Door::Http, stream.closer());
    let greeting_ms = if pass.is_some() { shard.plan.config.limits.greeting_timeout_ms } else { TURN_AWAY_MS };
    watched.expect(&shard, greeting_ms, Refusal::GreetingTimeout);
    watched.greeting(true);
    let peer = peer.ip().to_canonical();
    let from_proxy = shard.plan.config.trusted_proxies.contains(&peer);
    let id = CONNECTIONS.replace(CONNECTIONS.get() + 1);
    let watch = watched.watch();
    let visit = Rc::new(Visit {
        shard,
        peer,
        on_loopback,
        from_proxy,
        turned_away: pass.is_none(),
        watch,
        in_flight: Cell::new(0),
        served: Cell::new(0),
        between: Cell::new(false),
        id,
    });
    if let Some(mut stream) = open(&visit, stream).await {
        let differs = |bytes: &[u8]| bytes != &PREFACE[..bytes.len()];
        let http2 = stream.peek(PREFACE.len(), differs).await.is_ok_and(|first| first == PREFACE);
        watched.greeting(false);
        drive(&visit, stream, http2).await;
    }
    drop((watched, pass));
}

/// Looks at the first byte: TLS, or plain where that is allowed.
async fn open(visit: &Visit, stream: PollStream) -> Option<Stream> {
    let mut stream = Rewind::new(Vec::new(), stream);
    let first = *stream.peek(1, |bytes| !bytes.is_empty()).await.ok()?.first()?;
    let plan = &visit.shard.plan;
    match (&plan.tls, first == TLS_HANDSHAKE) {
        (Some(tls), true) => match tls.http_acceptor().accept(stream).await {
            Ok(stream) => Some(Stream::Tls(Box::new(Rewind::new(Vec::new(), stream)))),
            Err(problem) => {
                tracing::debug!(%problem, "TLS handshake failed");
                visit.watch.end(Refusal::Tls);
                None
            }
        },
        (None, true) => {
            visit.watch.end(Refusal::Tls);
            None
        }
        (Some(_), false) if !visit.peer.is_loopback() && !plan.config.plain_beyond_loopback => {
            visit.watch.end(Refusal::Plain);
            None
        }
        (_, false) => Some(Stream::Plain(stream)),
    }
}

async fn drive(visit: &Rc<Visit>, stream: Stream, http2: bool) {
    let limits = &visit.shard.plan.config.limits;
    let header_bytes_max = limits.http_header_bytes_max;
    let io = TokioIo::new(Io { stream, visit: Rc::clone(visit), write_ms: limits.write_timeout_ms });
    let for_service = Rc::clone(visit);
    let service = service_fn(move |request| {
        for_service.request_begins();
        let ending = InFlight { visit: Rc::clone(&for_service), http2 };
        let visit = Rc::clone(&for_service);
        async move {
            let answer = service::serve(visit, request).await;
            drop(ending);
            answer
        }
    });
    if http2 {
        let connection = http2::Builder::new(ShardTasks)
            .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        finish_politely(visit, connection.as_mut(), http2::Connection::graceful_shutdown).await;
    } else {
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .half_close(true)
            .max_buf_size(header_bytes_max.max(8 * 1024))
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        finish_politely(visit, connection.as_mut(), http1::Connection::graceful_shutdown).await;
    }
}

/// Runs hyper's connection; when the watch nudges (a drain, an idle end) it is asked to finish what it has.
async fn finish_politely<C>(visit: &Visit, mut connection: Pin<&mut C>, finish: impl FnOnce(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let nudged = std::pin::pin!(visit.watch.nudge.raised());
    let ended = select(connection.as_mut(), nudged).await;
    if let Either::Left((result, _)) = ended {
        return log_end(result);
    }
    if visit.served.get() == 0 && visit.watch.ended().is_none() {
        // It came through the accept queue just before the drain: its first request is still answered.
        if let Ok(result) = runtime::timeout(FIRST_REQUEST, connection.as_mut()).await {
            return log_end(result);
        }
    }
    finish(connection.as_mut());
    log_end(connection.await);
}

fn log_end(result: hyper::Result<()>) {
    if let Err(problem) = result {
        tracing::debug!(%problem, "HTTP connection ended");
    }
}

/// hyper's HTTP/2 streams as tasks of this shard, under the fairness guard.
#[derive(Clone)]
struct ShardTasks;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for ShardTasks {
    fn execute(&self, stream: F) {
        drop(runtime::spawn(stream));
    }
}

/// hyper's view of the stream; keeps the watch informed.
struct Io {
    stream: Stream,
    visit: Rc<Visit>,
    write_ms: u64,
}

impl Io {
    fn note_write<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending => self.visit.watch.writing(&self.visit.shard, self.write_ms),
            Poll::Ready(_) => self.visit.watch.written(),
        }
        polled
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.visit.between.replace(false) {
            let limits = &self.visit.shard.plan.config.limits;
            self.visit.watch.expect(&self.visit.shard, limits.greeting_timeout_ms, Refusal::GreetingTimeout);
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_write(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
