//! The REST door: HTTP/1.1 and HTTP/2 on one port, plain or TLS, by hyper on the shard. `routes` is the one table of what is
//! served, `service` the way of every request, `shapes` every body, `problem` every refusal; the rest are thin handlers.

mod accounts;
mod catalogue;
pub(crate) mod connection;
mod cors;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod health;
mod input;
mod openapi;
pub(crate) mod problem;
mod reading;
mod routes;
mod service;
mod shapes;

pub(crate) use problem::Answer;
pub(crate) use service::is_loopback_name;
