//! TLS on the same ports: both wires of TCP sync and HTTP, told apart from plain by the first byte.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use protocols::TlsFiles;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::{Frames, Lines, Said, Server, parse_answer, read_to_close, server, start, update};

struct Trusted {
    server: Server,
    client: Arc<ClientConfig>,
    _folder: tempfile::TempDir,
}

/// A server with a certificate of its own, and a client that trusts it.
fn with_tls() -> Trusted {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files =
        TlsFiles { certificate_chain: folder.path().join("chain.pem"), private_key: folder.path().join("key.pem") };
    std::fs::write(&files.certificate_chain, made.cert.pem()).expect("written");
    std::fs::write(&files.private_key, made.signing_key.serialize_pem()).expect("written");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = start(|doors, _| doors.tls = Some(files));
    Trusted { server, client: Arc::new(client), _folder: folder }
}

impl Trusted {
    fn connect(&self, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::clone(&self.client), name).expect("a session");
        StreamOwned::new(session, support::connect(address))
    }
}

#[test]
fn both_wires_and_http_are_spoken_inside_tls() {
    let trusted = with_tls();
    let server = &trusted.server;
    let manga = server.series[0];
    // Every user's owner is some shard: whichever shard takes a connection, it serves.
    for user in 0..3 {
        let mut frames = Frames::over(trusted.connect(server.sync()));
        frames.greet(&server.users[user].token, None);
        let mut lines = Lines::over(trusted.connect(server.sync()));
        lines.send(&format!(r#"{{"type":"auth","data":{{"token":"{}"}}}}"#, server.users[user].token));
        assert_eq!(lines.next()["type"], "auth_success");
        for seq in 1..=100 {
            frames.set(seq, &update(manga, u32::try_from(seq).unwrap()));
        }
        frames.flush();
        let mut acked = 0;
        while acked < 100 {
            let Said::Ack(ack) = frames.next() else { panic!("ack") };
            acked = ack.up_to_seq;
        }
        assert_eq!(lines.next()["type"], "progress_broadcast");
    }
    let mut http = trusted.connect(server.http());
    http.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(parse_answer(&read_to_close(http)).json()["status"], "ready");
}

#[test]
fn plain_connections_from_this_machine_are_still_served() {
    let trusted = with_tls();
    let mut frames = trusted.server.frames(0);
    frames.set(1, &update(trusted.server.series[0], 1));
    frames.flush();
    assert!(matches!(frames.next(), Said::Ack(_)));
}

#[test]
fn a_tls_greeting_without_a_certificate_gets_an_alert() {
    let server = server();
    let mut socket = support::connect(server.sync());
    socket.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
    assert_eq!(read_to_close(socket), [0x15, 3, 3, 0, 2, 2, 40]);
}
