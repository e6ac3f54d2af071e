//! Seeded nonsense at every door: whatever comes, the server answers or closes, nothing panics, and everybody else is served.

#[path = "../../fuzz/driver.rs"]
mod driver;
mod support;

use std::io::Write;
use std::net::Shutdown;

use driver::{Dice, spoil};
use proto::frame::{Get, Ping};
use support::{Frames, server, update};

/// A valid stream with a few bytes changed, cut or doubled.
fn spoiled(dice: &mut Dice, good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    spoil(dice, &mut bytes, 6, &[good.to_vec()], &[]);
    bytes
}

/// Sends it all, says that nothing more comes, and waits for the end.
fn offer(address: std::net::SocketAddr, bytes: &[u8]) {
    let mut socket = support::connect(address);
    // The server may have had enough before the last byte.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    support::read_to_close(socket);
}

#[test]
fn spoiled_frames_hurt_nobody() {
    let server = server();
    let mut good = Frames::over(std::io::Cursor::new(Vec::new()));
    good.queue_hello(&server.users[0].token, Some(proto::DeviceId::new_v7()));
    let hello_bytes = good.out.len();
    for seq in 1..=20 {
        good.set(seq, &update(server.series[0], u32::try_from(seq).unwrap()));
    }
    Get { manga: None }.encode(21, &mut good.out);
    Ping { nonce: 1 }.encode(22, &mut good.out);
    let mut dice = Dice::new(0x5eed_0001);
    for round in 0..200 {
        // Half of them get past the greeting before they go wrong.
        let bytes = match round % 2 {
            0 => spoiled(&mut dice, &good.out),
            _ => [&good.out[..hello_bytes], &spoiled(&mut dice, &good.out[hello_bytes..])].concat(),
        };
        offer(server.sync(), &bytes);
    }
    server.is_well();
}

#[test]
fn spoiled_lines_hurt_nobody() {
    let server = server();
    let auth = format!("{{\"type\":\"auth\",\"data\":{{\"token\":\"{}\"}}}}\n", server.users[0].token);
    let update = format!(
        "{{\"type\":\"progress_update\",\"data\":{{\"manga_id\":{},\"chapter\":1.5,\"status\":\"on-hold\"}}}}\n",
        server.series[0]
    );
    let rest = [update.as_str(), "{\"type\":\"heartbeat\"}\n", &update, "{\"type\":\"disconnect\"}\n"].concat();
    let mut dice = Dice::new(0x5eed_0002);
    for round in 0..200 {
        let bytes = match round % 2 {
            0 => spoiled(&mut dice, [auth.as_str(), &rest].concat().as_bytes()),
            _ => [auth.as_bytes(), &spoiled(&mut dice, rest.as_bytes())].concat(),
        };
        offer(server.sync(), &bytes);
    }
    server.is_well();
}

#[test]
fn spoiled_requests_hurt_nobody_and_never_get_500() {
    let server = server();
    let body = r#"{"chapter":1.5,"page":3,"status":"reading","force":true}"#;
    let one = format!(
        "PUT /api/progress/{} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.series[0],
        server.users[0].token,
        body.len()
    );
    let two = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\x82\x86\x84\x41\x00";
    let mut dice = Dice::new(0x5eed_0003);
    for round in 0..300 {
        let bytes = if round % 4 == 0 { spoiled(&mut dice, two) } else { spoiled(&mut dice, one.as_bytes()) };
        let mut socket = support::connect(server.http());
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(Shutdown::Write);
        let answer = support::read_to_close(socket);
        assert!(!answer.windows(13).any(|window| window == b"HTTP/1.1 500 "), "{:?}", String::from_utf8_lossy(&bytes));
    }
    server.is_well();
}
