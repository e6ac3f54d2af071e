//! The metrics door: Prometheus text for a scraper on this machine. It names loopback hosts only, refuses anything that
//! carries an Origin (a web page has no business here), and serves nothing but `/metrics`.

pub mod described;
mod process;

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use engine::Fault;
use http::header::{ALLOW, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::Code;
use runtime::net::TcpStream;

use crate::admission::{Door, Pass, Refusal};
use crate::http::{Answer, is_loopback_name, problem};
use crate::shard::Shard;

/// The format's own media type (Prometheus, exposition formats, text 0.0.4).
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
/// A scraper asks every 15 s or so; one request a connection is enough to be kind to it.
const CONNECTION_MS_MAX: u64 = 60_000;

/// Serves one connection.
pub(crate) async fn run(shard: Rc<Shard>, stream: TcpStream, _: SocketAddr, pass: Pass) {
    let Ok(stream) = stream.into_poll() else { return };
    let watched = shard.watch(Door::Metrics, stream.closer());
    watched.expect(&shard, CONNECTION_MS_MAX, Refusal::Idle);
    let for_service = Rc::clone(&shard);
    let service = service_fn(move |request| {
        let answer = answer(&for_service, &request);
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let nudged = std::pin::pin!(watched.nudge.raised());
    if let futures_util::future::Either::Right(_) = futures_util::future::select(connection.as_mut(), nudged).await {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
    drop(pass);
}

fn answer(shard: &Shard, request: &Request<Incoming>) -> Answer {
    page(shard, request).unwrap_or_else(|fault| {
        let mut answer = problem::answer(&fault, request.uri().path());
        if fault.code == Code::MethodNotAllowed {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        answer
    })
}

fn page(shard: &Shard, request: &Request<Incoming>) -> Result<Answer, Fault> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_loopback_name(host) || request.headers().contains_key(ORIGIN) {
        return Err(Fault::new(Code::Forbidden, "this page is for scrapers on this machine"));
    }
    if request.uri().path().trim_end_matches('/') != "/metrics" {
        return Err(Fault::not_found("there is only /metrics here"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Fault::new(Code::MethodNotAllowed, "this path takes GET, HEAD"));
    }
    let mut page = shard.plan.prometheus.as_ref().map(|handle| handle.render()).unwrap_or_default();
    process::append(&mut page, &shard.plan.admission);
    let mut answer = Answer::new(Full::new(Bytes::from(page)));
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    Ok(answer)
}
