//! The server's certificate and key, read once at the start, and the acceptors made from them: one for TCP sync, one for
//! HTTP with its protocol negotiation. No private key is ever logged, and only TLS 1.2 and 1.3 are spoken.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// Why the certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, not readable, or holds no such thing.
    #[error("cannot read the TLS {what} from {}: {reason}", path.display())]
    Read {
        /// Certificate chain or private key.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// They were read but do not belong together.
    #[error("the TLS certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate with its key, ready for handshakes on every shard.
#[derive(Clone)]
pub struct TlsIdentity {
    sync: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// Reads the PEM files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let unread = |what, path: &PathBuf, reason: &dyn std::fmt::Display| TlsError::Read {
            what,
            path: path.clone(),
            reason: reason.to_string(),
        };
        let path = &files.certificate_chain;
        let chain = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|problem| unread("certificate chain", path, &problem))?;
        if chain.is_empty() {
            return Err(unread("certificate chain", path, &"it holds no certificate"));
        }
        let path = &files.private_key;
        let key = PrivateKeyDer::from_pem_file(path).map_err(|problem| unread("private key", path, &problem))?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let sync = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let mut http = sync.clone();
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { sync: Arc::new(sync), http: Arc::new(http) })
    }

    /// For TCP sync.
    pub(crate) fn sync_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.sync))
    }

    /// For HTTP: offers h2 and http/1.1.
    pub(crate) fn http_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.http))
    }
}
