//! What a person may set about the doors, and the plan that every shard opens its doors from. Everything that can be wrong
//! with the settings is found here, once, before a shard starts; a shard that opens its doors never reads a file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use metrics_exporter_prometheus::PrometheusHandle;
use proto::DeviceId;

use runtime::net::{ListenerConfig, TcpListener};

use crate::admission::{Admission, Door};
use crate::tls::{TlsError, TlsIdentity};

/// Where the doors are and what passes through them. `Default` is what a fresh machine gets: loopback, the ports of the
/// earlier system, no TLS.
#[derive(Clone, Debug)]
pub struct DoorsConfig {
    /// Progress sync: frames and JSON lines. `None` keeps the door shut; port 0 lets the system choose.
    pub tcp_sync: Option<SocketAddr>,
    /// REST over HTTP/1.1 and HTTP/2.
    pub http: Option<SocketAddr>,
    /// Prometheus text. Answers only callers that name a loopback host.
    pub metrics: Option<SocketAddr>,
    /// Certificate and key for HTTP and TCP sync; without them a TLS greeting is refused with a reason.
    pub tls: Option<TlsFiles>,
    /// With TLS configured, whether plain connections from beyond loopback are still served.
    pub plain_beyond_loopback: bool,
    /// Addresses whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Exact origins that a browser may call from. Empty: none.
    pub cors_origins: Vec<String>,
    /// Whether catalogue reads need a sign-in.
    pub catalogue_require_auth: bool,
    /// What one connection, one address and the process may use.
    pub limits: DoorLimits,
}

impl Default for DoorsConfig {
    fn default() -> Self {
        let loopback = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        Self {
            tcp_sync: loopback(8081),
            http: loopback(8084),
            metrics: loopback(9100),
            tls: None,
            plain_beyond_loopback: false,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            catalogue_require_auth: false,
            limits: DoorLimits::default(),
        }
    }
}

/// A certificate chain and its private key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate first, then its issuers.
    pub certificate_chain: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
}

/// Limits of the doors. Counts are per process unless their name says otherwise.
#[derive(Clone, Debug)]
pub struct DoorLimits {
    /// Open connections over all doors and shards; derive it from `RLIMIT_NOFILE`.
    pub connections_max: u32,
    /// Open connections of one address (of one /64 for IPv6).
    pub connections_per_address_max: u32,
    /// Updates that a frame connection may have unanswered; stated in Welcome.
    pub window_max: u32,
    /// From the connection's start until it has said who it is (TCP sync), or until a request's header is there (HTTP).
    pub greeting_timeout_ms: u64,
    /// TCP sync: nothing heard for this long closes the connection.
    pub sync_idle_timeout_ms: u64,
    /// HTTP: no request for this long closes the connection.
    pub http_idle_timeout_ms: u64,
    /// One HTTP request's body.
    pub http_body_bytes_max: usize,
    /// One HTTP request's header.
    pub http_header_bytes_max: usize,
    /// How long a write to a peer that does not read may take before the connection is closed.
    pub write_timeout_ms: u64,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            connections_max: 8_192,
            connections_per_address_max: 1_024,
            window_max: 4_096,
            greeting_timeout_ms: 10_000,
            sync_idle_timeout_ms: 300_000,
            http_idle_timeout_ms: 60_000,
            http_body_bytes_max: 1024 * 1024,
            http_header_bytes_max: 32 * 1024,
            write_timeout_ms: 10_000,
        }
    }
}

/// Why the doors did not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address is taken, not ours, or the port is not allowed.
    #[error(
        "the {door} door cannot listen on {address}: {source}; is another server running there? (ports.{door} sets the port)"
    )]
    Listen {
        /// Which door.
        door: &'static str,
        /// Where it should have been.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An entry of the CORS list is not an origin.
    #[error("cors origin {0:?} is not of the form scheme://host[:port] (no path, no trailing slash, no wildcard)")]
    Origin(String),
}

/// The settings, checked, with what all shards share. Cheap to clone; make it once per process and give one to each shard.
#[derive(Clone)]
pub struct DoorPlan {
    pub(crate) inner: Arc<PlanInner>,
}

pub(crate) struct PlanInner {
    pub(crate) config: DoorsConfig,
    pub(crate) tls: Option<TlsIdentity>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) prometheus: Option<PrometheusHandle>,
    /// Random per process: request ids of two runs never meet.
    pub(crate) boot: u32,
    addresses: DoorAddresses,
    /// The listeners that hold the ports from the start on; the first shard to come takes them. Only touched at the start.
    reserved: Mutex<Vec<(Door, std::net::TcpListener)>>,
}

/// Where the doors are, once they are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorAddresses {
    /// Progress sync.
    pub tcp_sync: Option<SocketAddr>,
    /// REST.
    pub http: Option<SocketAddr>,
    /// Prometheus text.
    pub metrics: Option<SocketAddr>,
}

impl DoorPlan {
    /// Checks the settings and reads the certificate. `prometheus` is what `/metrics` renders; without it the page holds the
    /// process gauges only.
    pub fn prepare(config: DoorsConfig, prometheus: Option<PrometheusHandle>) -> Result<Self, DoorError> {
        if let Some(bad) = config.cors_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(DoorError::Origin(bad.clone()));
        }
        let tls = config.tls.as_ref().map(TlsIdentity::load).transpose()?;
        let admission =
            Arc::new(Admission::new(config.limits.connections_max, config.limits.connections_per_address_max));
        let boot = DeviceId::new_v7().as_bytes()[12..].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        let (mut reserved, mut addresses) = (Vec::new(), DoorAddresses::default());
        for (door, address) in
            [(Door::TcpSync, config.tcp_sync), (Door::Http, config.http), (Door::Metrics, config.metrics)]
        {
            let Some(address) = address else { continue };
            let unopened = |source| DoorError::Listen { door: door.as_str(), address, source };
            // Shards share a port, and so would another server of the same user: ask for it alone once, and let go.
            if address.port() != 0 {
                drop(std::net::TcpListener::bind(address).map_err(unopened)?);
            }
            let listener = TcpListener::reserve(address, &ListenerConfig::default()).map_err(unopened)?;
            *addresses.of(door) = Some(listener.local_addr().map_err(unopened)?);
            reserved.push((door, listener));
        }
        let reserved = Mutex::new(reserved);
        Ok(Self { inner: Arc::new(PlanInner { config, tls, admission, prometheus, boot, addresses, reserved }) })
    }

    /// Where the doors are: a port 0 has become a real one.
    pub fn addresses(&self) -> DoorAddresses {
        self.inner.addresses
    }

    /// This shard's listener of a door: the reserved one for the first to come, one of its own beside it for the others.
    pub(crate) fn listen(&self, door: Door) -> Result<TcpListener, DoorError> {
        let mut addresses = self.inner.addresses;
        let address = addresses.of(door).expect("a door is listened on only when it was planned");
        let reserved = {
            let mut all = self.inner.reserved.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let at = all.iter().position(|(reserved, _)| *reserved == door);
            at.map(|at| all.swap_remove(at).1)
        };
        let config = ListenerConfig::default();
        match reserved {
            Some(listener) => TcpListener::attach(listener, &config),
            None => TcpListener::bind(address, &config),
        }
        .map_err(|source| DoorError::Listen { door: door.as_str(), address, source })
    }
}

impl DoorAddresses {
    fn of(&mut self, door: Door) -> &mut Option<SocketAddr> {
        match door {
            Door::TcpSync => &mut self.tcp_sync,
            Door::Http => &mut self.http,
            Door::Metrics => &mut self.metrics,
        }
    }
}

/// Whether `text` is an origin as browsers send it (RFC 6454, section 6.2).
fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        matches!(scheme, "http" | "https")
            && !rest.is_empty()
            && !rest.contains(['/', '*', ' ', '@'])
            && rest.chars().all(|letter| letter.is_ascii() && !letter.is_ascii_uppercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_origins_are_taken() {
        for good in ["http://localhost:3000", "https://reader.example"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["*", "https://*.example", "https://reader.example/", "reader.example", "ftp://x", "https://"] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
