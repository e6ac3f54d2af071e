//! Sockets on both backends: nothing is lost, connections can be ended and moved, listeners survive shortage.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::mpsc,
    time::Duration,
};

use runtime::{
    buffer::AlignedBuf,
    net::{Detached, ListenerConfig, TcpListener, TcpStream, UnixListener},
    notify::Notify,
};
use support::{PATIENCE, on_shard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn listener() -> TcpListener {
    TcpListener::bind(ANY, &ListenerConfig::default()).unwrap()
}

/// A connected pair: one end on the shard, the other for a plain thread.
async fn pair() -> (TcpStream, StdTcpStream) {
    let mut listener = listener();
    let client = StdTcpStream::connect(listener.local_addr()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    (server, client)
}

async fn poll_read(stream: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut buf = ReadBuf::new(bytes);
        std::pin::Pin::new(&mut *stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    })
    .await
}

async fn poll_write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_write(cx, bytes)).await
}

#[test]
fn every_byte_of_a_large_echo_comes_back_in_order() {
    const BYTES: usize = 4 << 20;
    for backend in support::backends() {
        let echoed = on_shard(backend, |_| async {
            let (stream, mut client) = pair().await;
            assert_eq!(stream.local_addr(), client.peer_addr().unwrap());
            let mut sending = client.try_clone().unwrap();
            let pattern = |index: usize| (index.wrapping_mul(31) >> 3) as u8;
            let writer = std::thread::spawn(move || {
                let all: Vec<u8> = (0..BYTES).map(pattern).collect();
                sending.write_all(&all).unwrap();
                sending.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                all.len() == BYTES && all.iter().enumerate().all(|(index, byte)| *byte == pattern(index))
            });
            let (mut read, mut write) = stream.split();
            let (queue, mut waiting) = runtime::local::channel::<AlignedBuf>(1024);
            let writing = runtime::spawn(async move {
                while let Some(buf) = waiting.recv().await {
                    write.write_all(buf).await.0.unwrap();
                }
            });
            loop {
                let (outcome, buf) = read.read(AlignedBuf::with_capacity(16, 32 << 10)).await;
                if outcome.unwrap() == 0 {
                    break;
                }
                queue.try_send(buf).unwrap();
            }
            drop(queue);
            writing.await.unwrap();
            drop(read);
            // Joining blocks the shard, which has nothing left to do but to have its descriptors closed.
            runtime::sleep(Duration::from_millis(2)).await;
            writer.join().unwrap();
            reader.join().unwrap()
        });
        assert!(echoed, "{backend:?}");
    }
}

#[test]
fn reads_append_and_refuse_a_full_buffer() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let (mut stream, mut client) = pair().await;
            client.write_all(b"cd").unwrap();
            let mut buf = Vec::with_capacity(8);
            buf.extend_from_slice(b"ab");
            let (outcome, buf) = stream.read(buf).await;
            assert_eq!((outcome.unwrap(), buf.as_slice()), (2, b"abcd".as_slice()));
            client.write_all(b"ef").unwrap();
            let (outcome, buf) = stream.read(bytes::BytesMut::with_capacity(64)).await;
            assert_eq!((outcome.unwrap(), &buf[..]), (2, b"ef".as_slice()));
            let (outcome, _) = stream.read(Vec::new()).await;
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidInput);
            stream.write_all(bytes::Bytes::from_static(b"bye")).await.0.unwrap();
            stream.write_all(b"!".as_slice()).await.0.unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"bye!");
        });
    }
}

#[test]
fn a_closer_ends_a_pending_read_from_outside() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let (stream, _client) = pair().await;
            let closer = stream.closer();
            let (mut read, write) = stream.split();
            let reader = runtime::spawn(async move { read.read(Vec::with_capacity(64)).await.0.unwrap() });
            runtime::yield_now().await;
            assert!(!reader.is_finished());
            closer.close_read();
            assert_eq!(reader.await.unwrap(), 0);
            assert!(!closer.is_gone());
            drop(write);
            assert!(closer.is_gone());
            closer.close();
        });
    }
}

#[test]
fn waiting_for_readability_can_be_dropped_without_losing_bytes() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let (mut stream, mut client) = pair().await;
            for round in 0..20_u8 {
                assert!(runtime::timeout(Duration::from_millis(1), stream.readable()).await.is_err());
                client.write_all(&[round]).unwrap();
                stream.readable().await.unwrap();
                let (outcome, buf) = stream.read(Vec::with_capacity(8)).await;
                assert_eq!((outcome.unwrap(), buf), (1, vec![round]));
            }
        });
    }
}

#[test]
fn poll_streams_can_be_timed_out_without_losing_bytes() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let (stream, mut client) = pair().await;
            let mut stream = stream.into_poll().unwrap();
            assert_eq!(stream.peer_addr(), client.local_addr().ok());
            let mut bytes = [0; 8];
            assert!(runtime::timeout(Duration::from_millis(2), poll_read(&mut stream, &mut bytes)).await.is_err());
            client.write_all(b"hello").unwrap();
            assert_eq!(poll_read(&mut stream, &mut bytes).await.unwrap(), 5);
            assert_eq!(poll_write(&mut stream, b"you").await.unwrap(), 3);
            let mut answer = [0; 3];
            client.read_exact(&mut answer).unwrap();
            stream.closer().close_read();
            assert_eq!(poll_read(&mut stream, &mut bytes).await.unwrap(), 0);
        });
    }
}

#[test]
fn a_connection_moves_between_shards_with_what_was_read() {
    const MOVES: usize = 200;
    for backend in support::backends() {
        // Shard 0 accepts and reads the first byte; shard 1 attaches, reads the rest and answers with all of it.
        let (moving, arriving) = mpsc::channel::<Detached>();
        let (addresses, bound) = mpsc::channel();
        let arrived = Notify::new();
        let (mut moving, mut arriving) = (Some(moving), Some(arriving));
        let fleet = support::start(backend, 2, |id| {
            let (moving, arriving, addresses) =
                (moving.take_if(|_| id == 0), arriving.take_if(|_| id == 1), addresses.clone());
            let arrived = arrived.clone();
            move |_| async move {
                if let Some(moving) = moving {
                    let mut listener = listener();
                    addresses.send(listener.local_addr()).unwrap();
                    for _ in 0..MOVES {
                        let (mut stream, _) = listener.accept().await.unwrap();
                        let (outcome, read) = stream.read(Vec::with_capacity(1)).await;
                        assert_eq!(outcome.unwrap(), 1);
                        moving.send(stream.detach(read).unwrap()).unwrap();
                        arrived.notify();
                    }
                } else if let Some(arriving) = arriving {
                    for _ in 0..MOVES {
                        let detached = loop {
                            match arriving.try_recv() {
                                Ok(detached) => break detached,
                                Err(_) => arrived.notified().await,
                            }
                        };
                        let (mut stream, mut read) = detached.attach().unwrap();
                        while read.len() < 5 {
                            let (outcome, back) = stream.read(read).await;
                            read = back;
                            if outcome.is_ok_and(|count| count == 0) {
                                break;
                            }
                            read.reserve(8);
                        }
                        stream.write_all(read).await.0.unwrap();
                    }
                }
            }
        });
        let address = bound.recv_timeout(PATIENCE).unwrap();
        for round in 0..MOVES {
            let mut client = StdTcpStream::connect(address).unwrap();
            let message = [b'a', b'b', b'c', b'd', round as u8];
            client.write_all(&message).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, message, "{backend:?} round {round}");
        }
        fleet.join();
    }
}

#[test]
fn closing_a_listener_serves_those_who_had_connected() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let listener = listener();
            let address = listener.local_addr();
            let mut clients: Vec<_> = (0..5).map(|_| StdTcpStream::connect(address).unwrap()).collect();
            let waiting = listener.close();
            assert_eq!(waiting.len(), 5);
            for (mut stream, _) in waiting {
                stream.write_all(b"served".as_slice()).await.0.unwrap();
            }
            for client in &mut clients {
                let mut answer = [0; 6];
                client.read_exact(&mut answer).unwrap();
            }
            // The descriptor is closed by the ring on its next visit.
            runtime::sleep(Duration::from_millis(5)).await;
            assert_eq!(StdTcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        });
    }
}

#[test]
fn shards_share_a_port() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let reserved = TcpListener::reserve(ANY, &ListenerConfig::default()).unwrap();
            let address = reserved.local_addr().unwrap();
            let first = TcpListener::attach(reserved, &ListenerConfig::default()).unwrap();
            let second = TcpListener::bind(address, &ListenerConfig::default()).unwrap();
            assert_eq!(first.local_addr(), second.local_addr());
        });
    }
}

#[test]
fn out_of_descriptors_accepting_pauses_and_goes_on() {
    if !support::is_child() {
        let output = support::run_in_child("out_of_descriptors_accepting_pauses_and_goes_on");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let mut listener = listener();
            let address = listener.local_addr();
            let mut client = StdTcpStream::connect(address).unwrap();
            // Nothing is left for the connection that waits.
            let mut hoard = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                hoard.push(file);
                if hoard.len() > 60_000 {
                    panic!("this test needs a limit on descriptors");
                }
            }
            assert!(runtime::timeout(Duration::from_millis(20), listener.accept()).await.is_err());
            assert!(listener.pauses() > 0);
            drop(hoard);
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"!".as_slice()).await.0.unwrap();
            client.read_exact(&mut [0]).unwrap();
        });
    }
}

#[test]
fn the_admin_socket_is_private_and_knows_its_peer() {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};
    for backend in support::backends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        // Left behind by a killed process: nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let kept = path.clone();
        on_shard(backend, move |_| async move {
            let mut listener = UnixListener::bind(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(UnixListener::bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
            // The failed bind looked by connecting; that connection comes first.
            drop(listener.accept().await.unwrap());
            let mut client = UnixStream::connect(&path).unwrap();
            let (mut stream, credentials) = listener.accept().await.unwrap();
            assert_eq!(credentials.pid, std::process::id() as i32);
            assert_eq!(stream.peer_addr(), None);
            client.write_all(b"hi").unwrap();
            let mut bytes = [0; 8];
            assert_eq!(poll_read(&mut stream, &mut bytes).await.unwrap(), 2);
            assert_eq!(poll_write(&mut stream, b"ho").await.unwrap(), 2);
            let mut answer = [0; 2];
            client.read_exact(&mut answer).unwrap();
        });
        assert!(!kept.exists(), "the socket file goes with its listener");
    }
}

#[test]
fn connecting_reports_refusal() {
    for backend in support::backends() {
        on_shard(backend, |_| async {
            let address = {
                let closed = std::net::TcpListener::bind(ANY).unwrap();
                closed.local_addr().unwrap()
            };
            assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let open = std::net::TcpListener::bind(ANY).unwrap();
            let mut stream = TcpStream::connect(open.local_addr().unwrap()).await.unwrap();
            let (mut other, _) = open.accept().unwrap();
            stream.write_all(b"x".to_vec()).await.0.unwrap();
            other.read_exact(&mut [0]).unwrap();
            assert_eq!(stream.peer_addr(), open.local_addr().unwrap());
        });
    }
}
