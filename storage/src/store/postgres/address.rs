//! Where the database is: a `postgres://` URL with libpq's parameters. What libpq knows and the driver does not (`sslmode` with
//! verification, `sslrootcert`) is taken out here; the password never appears in what is shown.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::OpenError;

/// Whom TLS believes, by libpq's names (postgresql.org/docs/current/libpq-ssl.html).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Any certificate: the line is encrypted, the other end is not known (`prefer`, `require`).
    Anybody,
    /// A certificate of these authorities, whatever name it is for (`verify-ca`, or `require` with `sslrootcert`).
    Authority(Roots),
    /// A certificate of these authorities for this host's name (`verify-full`).
    Host(Roots),
}

/// Which authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// The system's.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

/// A database, and how to speak to it.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The driver's part.
    pub(super) config: Config,
    /// TLS.
    pub(super) trust: Trust,
}

impl Address {
    /// Reads a URL.
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let wrong = |why: String| OpenError::Address(why);
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it must begin with postgres://".to_owned()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots, mut kept) = ("prefer", None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = value,
                Some(("sslrootcert", "system")) => roots = Some(Roots::System),
                Some(("sslrootcert", path)) => roots = Some(Roots::File(PathBuf::from(decoded(path)))),
                _ => kept.push(pair),
            }
        }
        let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config: Config = rest.parse().map_err(|error| wrong(reason(&error)))?;
        let (ssl_mode, trust) = match (mode, roots) {
            ("disable", _) => (SslMode::Disable, Trust::Anybody),
            ("prefer" | "allow", _) => (SslMode::Prefer, Trust::Anybody),
            ("require", None) => (SslMode::Require, Trust::Anybody),
            ("require", Some(roots)) => (SslMode::Require, Trust::Authority(roots)),
            ("verify-ca", roots) => (SslMode::Require, Trust::Authority(roots.unwrap_or(Roots::System))),
            ("verify-full", roots) => (SslMode::Require, Trust::Host(roots.unwrap_or(Roots::System))),
            (other, _) => {
                let known = "disable, allow, prefer, require, verify-ca and verify-full";
                return Err(wrong(format!("sslmode={other:?} is none of {known}")));
            }
        };
        config.ssl_mode(ssl_mode);
        if config.get_hosts().is_empty() {
            return Err(wrong("it names no host".to_owned()));
        }
        if config.get_application_name().is_none() {
            config.application_name("mangahub");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        // A peer that vanished is noticed by the requests' own time limits; keep-alives notice it on idle connections, within a
        // minute.
        config.keepalives_idle(Duration::from_secs(30));
        config.keepalives_interval(Duration::from_secs(10));
        config.keepalives_retries(3);
        Ok(Self { config, trust })
    }

    /// Host, port and database, for a person.
    pub(super) fn shown(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}/{}", self.config.get_dbname().or(self.config.get_user()).unwrap_or("postgres"))
    }
}

fn reason(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Percent-encoding undone (RFC 3986 2.1); what is not hexadecimal stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(query: &str) -> (SslMode, Trust) {
        let address = Address::parse(&format!("postgres://me:secret@db.example:6432/manga?{query}")).unwrap();
        (address.config.get_ssl_mode(), address.trust)
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        assert_eq!(trust(""), (SslMode::Prefer, Trust::Anybody));
        assert_eq!(trust("sslmode=disable"), (SslMode::Disable, Trust::Anybody));
        assert_eq!(trust("sslmode=require"), (SslMode::Require, Trust::Anybody));
        let file = || Roots::File("/etc/my ca.pem".into());
        assert_eq!(trust("sslrootcert=/etc/my%20ca.pem&sslmode=require"), (SslMode::Require, Trust::Authority(file())));
        assert_eq!(trust("sslmode=verify-ca"), (SslMode::Require, Trust::Authority(Roots::System)));
        assert_eq!(
            trust("sslmode=verify-full&sslrootcert=/etc/my ca.pem&connect_timeout=3"),
            (SslMode::Require, Trust::Host(file()))
        );
        let wrong = Address::parse("postgres://h/d?sslmode=verify").unwrap_err().to_string();
        assert!(wrong.contains("verify-full"), "{wrong}");
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address = Address::parse("postgres://me:secret@db.example:6432/manga").unwrap();
        assert_eq!(address.shown(), "db.example:6432/manga");
        let socket = Address::parse("postgresql://me@%2Frun%2Fpg/manga").unwrap();
        assert_eq!(socket.shown(), "/run/pg:5432/manga");
        for wrong in ["mysql://h/d", "postgres:///d", "host=h", "postgres://me:secret@h/d?nonsense=1"] {
            let error = Address::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
