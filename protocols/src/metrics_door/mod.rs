//! The metrics door: Prometheus text for a scraper on this machine. It names loopback hosts only, refuses anything that
//! carries an Origin (a web page has no business here), and serves nothing but `/metrics`.

mod process;

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::net::TcpStream;

use crate::admission::{Door, Pass, Refusal};
use crate::http::is_loopback_name;
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

fn answer(shard: &Shard, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_loopback_name(host) || request.headers().contains_key(ORIGIN) {
        return plain(StatusCode::FORBIDDEN, "This page is for scrapers on this machine.\n".to_owned());
    }
    if request.uri().path().trim_end_matches('/') != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "There is only /metrics here.\n".to_owned());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Use GET.\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let mut page = shard.plan.prometheus.as_ref().map(|handle| handle.render()).unwrap_or_default();
    process::append(&mut page, &shard.plan.admission);
    plain(StatusCode::OK, page)
}

fn plain(status: StatusCode, page: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(page)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}
