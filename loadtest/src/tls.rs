//! TLS for harness runs: a fresh self-signed certificate for the server that the harness starts, and a client that trusts exactly
//! that one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A client's trust in one certificate.
#[derive(Clone)]
pub struct Trust {
    connector: TlsConnector,
}

/// The files that a server is given.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Trust {
    /// Makes a certificate for `localhost`, writes it into a folder, and trusts it.
    pub fn make(folder: &Path) -> io::Result<(Self, Files)> {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
        let files = Files { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
        std::fs::write(&files.certificate, cert.pem())?;
        std::fs::write(&files.key, signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).map_err(io::Error::other)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok((Self { connector: TlsConnector::from(Arc::new(config)) }, files))
    }

    /// The handshake.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        self.connector.connect(name, stream).await
    }
}
