//! `server ping`: whether the server of this data folder is there, by its own word and at every door. What a container's health
//! check runs: it needs no client, no certificate and no token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{Operator, Request};
use crate::cli::args::ServerCommand;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Output, print};
use crate::config::Config;
use crate::serve::ports;

/// How long a door may take to accept.
const DOOR_MAX: Duration = Duration::from_secs(2);

/// Runs one of them.
pub(super) fn run(config: &Config, command: &ServerCommand, output: Output) -> Result<Exit, Failure> {
    match command {
        ServerCommand::Ping => ping(config, output),
    }
}

fn ping(config: &Config, output: Output) -> Result<Exit, Failure> {
    let mut operator = Operator::running(config)?;
    let health = operator.ask(Request::Health)?;
    let doors = ports::read(&config.data_dir)
        .map_err(|error| Failure::new(Exit::Unreachable, format!("{} of the running server: {error}", ports::NAME)))?;
    let mut open = serde_json::Map::new();
    for (name, address) in doors {
        let begun = Instant::now();
        TcpStream::connect_timeout(&reachable(address), DOOR_MAX).map_err(|error| {
            Failure::new(Exit::Unreachable, format!("the {name} door at {address} does not open: {error}"))
        })?;
        let took_us = begun.elapsed().as_micros() as u64;
        open.insert(name, json!({"address": address, "connect_us": took_us}));
    }
    let answer = json!({"health": health, "doors": open});
    print(output, &answer, || as_text(&answer));
    Ok(if health["ready"] == true { Exit::Done } else { Exit::Failed })
}

/// Where a door that listens everywhere is reached from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn as_text(answer: &Value) -> String {
    let health = &answer["health"];
    let mut text = format!("{}\n", health["status"].as_str().unwrap_or("unknown"));
    for (name, state) in health["dependencies"].as_object().into_iter().flatten() {
        let detail = health["details"][name].as_str().map(|detail| format!(" ({detail})")).unwrap_or_default();
        text.push_str(&format!("  {name:<10} {}{detail}\n", state.as_str().unwrap_or_default()));
    }
    for (name, door) in answer["doors"].as_object().into_iter().flatten() {
        let took_ms = door["connect_us"].as_f64().unwrap_or(0.0) / 1e3;
        text.push_str(&format!("  {name:<10} {}  {took_ms:.1} ms\n", door["address"].as_str().unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_that_listens_everywhere_is_asked_on_loopback() {
        for (given, asked) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            assert_eq!(reachable(given.parse().unwrap()), asked.parse::<SocketAddr>().unwrap());
        }
    }
}
