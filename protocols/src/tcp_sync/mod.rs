//! The progress-sync door: binary frames and JSON lines on one port, plain or TLS, told apart by the first byte. A plain
//! connection moves to its user's owner once its token is verified, so that its updates cross no thread; a TLS one stays,
//! because its state cannot be moved, and calls the owner.

mod frames;
mod greeting;
mod lines;
mod link;
mod transport;

use std::rc::Rc;
use std::sync::Arc;

use engine::{Ask, AttachOptions, Encoders, Fault, Grant, WireForm, trace};
use futures_util::future::{Either, select};
use proto::Code;
use proto::frame::{ALIGNMENT_BYTES, Caps, FRAME_BYTES_MAX, wants};
use runtime::buffer::AlignedBuf;
use runtime::net::{Detached, TcpStream};

use self::frames::Frames;
use self::greeting::{GREETING_BYTES, Hail, Speech, Unwelcome, first_byte, greet};
use self::lines::Lines;
use self::link::Link;
use self::transport::{Output, TlsSide, Transport};
use crate::admission::{Door, Pass, Refusal, count_refusal, no_place_fault};
use crate::shard::{LINGER_MS, Shard, TURN_AWAY_MS, Watched, spawn_connection};
use crate::stream::Rewind;

/// The announcements of this door's two wires.
pub(crate) fn encoders(encoders: Encoders) -> Encoders {
    encoders.with(WireForm::Frame, frames::announcement).with(WireForm::Line, lines::announcement)
}

/// A verified connection on its way to its user's owner.
struct Moving {
    socket: Detached,
    grant: Arc<Grant>,
    hail: Hail,
    pass: Pass,
}

/// Serves a connection from accept until it has greeted; then it lives on in a task of its own, here or on another shard.
pub(crate) async fn run(shard: Rc<Shard>, stream: TcpStream, pass: Pass) {
    let watched = shard.watch(Door::TcpSync, stream.closer());
    watched.expect(&shard, shard.plan.config.limits.greeting_timeout_ms, Refusal::GreetingTimeout);
    watched.greeting(true);
    // Who says nothing must not hold more than this: what it takes to listen is made when there is something to hear.
    if stream.readable().await.is_ok() {
        Box::pin(meet(shard, watched, stream, pass)).await;
    }
}

/// Hears the greeting.
async fn meet(shard: Rc<Shard>, watched: Watched, mut stream: TcpStream, pass: Pass) {
    let Ok((first, buffer)) = first_byte(&mut stream, AlignedBuf::new(ALIGNMENT_BYTES)).await else { return };
    let speech = Speech::of(first);
    let plan = &shard.plan;
    let plain_refused = plan.tls.is_some()
        && !plan.config.plain_beyond_loopback
        && !stream.peer_addr().ip().to_canonical().is_loopback();
    match (speech, &plan.tls) {
        (Speech::Tls, Some(tls)) => {
            let Ok(stream) = stream.into_poll() else { return };
            let stream = Rewind::new(buffer.as_slice().to_vec(), stream);
            drop(buffer);
            match tls.sync_acceptor().accept(stream).await {
                Ok(stream) => inside_tls(shard, watched, TlsSide::new(stream), pass).await,
                Err(problem) => {
                    tracing::debug!(%problem, "TLS handshake failed");
                    watched.end(Refusal::Tls);
                }
            }
        }
        (Speech::Tls, None) => {
            count_refusal(Door::TcpSync, Refusal::Tls);
            turn_away(&shard, &watched, stream, speech, &Fault::new(Code::BadFrame, "no TLS here"), true).await;
        }
        _ if plain_refused => {
            count_refusal(Door::TcpSync, Refusal::Plain);
            let fault = Fault::new(Code::Forbidden, "this server takes connections from other machines over TLS only");
            turn_away(&shard, &watched, stream, speech, &fault, true).await;
        }
        _ => plain(shard, watched, stream, buffer, speech, pass).await,
    }
}

async fn plain(
    shard: Rc<Shard>,
    watched: Watched,
    mut stream: TcpStream,
    buffer: AlignedBuf,
    speech: Speech,
    pass: Pass,
) {
    let (grant, hail, buffer) = match greet(&shard, &mut stream, buffer, speech).await {
        Ok(greeted) => greeted,
        Err(unwelcome) => return refuse(&shard, &watched, stream, unwelcome).await,
    };
    let owner = shard.engine.owner(grant.user);
    if owner == shard.engine.shard() {
        return serve(shard, watched, stream, buffer, grant, hail, pass).await;
    }
    drop(watched);
    let Ok(socket) = stream.detach(buffer.as_slice().to_vec()) else { return };
    let moving = Box::new(Moving { socket, grant, hail, pass });
    let Err((back, fault)) = shard.engine.hand_over(owner, moving) else { return };
    count_refusal(Door::TcpSync, Refusal::Move);
    let Ok(moving) = back.downcast::<Moving>() else { return };
    let Ok((stream, _)) = moving.socket.attach() else { return };
    let watched = shard.watch(Door::TcpSync, stream.closer());
    let fault = Fault { code: Code::Capacity, ..fault };
    turn_away(&shard, &watched, stream, speech, &fault, false).await;
}

async fn inside_tls(shard: Rc<Shard>, watched: Watched, mut side: TlsSide, pass: Pass) {
    let buffer = AlignedBuf::with_capacity(ALIGNMENT_BYTES, GREETING_BYTES);
    let Ok((first, buffer)) = first_byte(&mut side, buffer).await else { return };
    match greet(&shard, &mut side, buffer, Speech::of(first)).await {
        Ok((grant, hail, buffer)) => serve(shard, watched, side, buffer, grant, hail, pass).await,
        Err(unwelcome) => refuse(&shard, &watched, side, unwelcome).await,
    }
}

/// Takes in the connections that other shards hand over, until the shard ends.
pub(crate) async fn take_in(shard: Rc<Shard>) {
    let stop = shard.context.stop.clone();
    loop {
        let handed = {
            let stopped = std::pin::pin!(stop.stopped());
            let handed = std::pin::pin!(shard.engine.next_handed());
            match select(stopped, handed).await {
                Either::Left(_) => return,
                Either::Right((handed, _)) => handed,
            }
        };
        let Ok(moving) = handed.downcast::<Moving>() else {
            tracing::error!("another shard handed over something that is not a sync connection");
            continue;
        };
        let shard = Rc::clone(&shard);
        spawn_connection(Door::TcpSync, async move {
            let Moving { socket, grant, hail, pass } = *moving;
            let Ok((stream, read)) = socket.attach() else { return };
            let watched = shard.watch(Door::TcpSync, stream.closer());
            let mut buffer = AlignedBuf::with_capacity(ALIGNMENT_BYTES, read.len());
            buffer.extend_from_slice(&read);
            serve(shard, watched, stream, buffer, grant, hail, pass).await;
        });
    }
}

/// Attaches a verified connection on this shard and lets it live on in tasks of its own: what a greeting needed is given back.
async fn serve<T: Transport>(
    shard: Rc<Shard>,
    watched: Watched,
    transport: T,
    buffer: AlignedBuf,
    grant: Arc<Grant>,
    hail: Hail,
    pass: Pass,
) {
    watched.greeting(false);
    watched.expect(&shard, shard.plan.config.limits.greeting_timeout_ms, Refusal::GreetingTimeout);
    let (form, lines, device) = match hail {
        Hail::Frames { device, .. } => (WireForm::Frame, false, device),
        Hail::Lines { device } => (WireForm::Line, true, device),
    };
    let window = shard.plan.config.limits.window_max;
    let options = AttachOptions { form, window, lines };
    let attachment = match shard.engine.attach(Arc::clone(&grant), device, options).await {
        Ok(attachment) => attachment,
        Err(fault) => return turn_away(&shard, &watched, transport, hail.speech(), &fault, false).await,
    };
    let welcome = attachment.welcome();
    let mut opening = Vec::with_capacity(512);
    match hail {
        Hail::Frames { seq, resume, wants: asked, .. } => {
            let caps = Caps::frames_of(FRAME_BYTES_MAX);
            frames::preamble(&mut opening);
            let idle_ms = shard.plan.config.limits.sync_idle_timeout_ms;
            frames::welcome(&grant, &welcome, idle_ms, &caps, seq, &mut opening);
            let wire = Frames::new(caps, asked, welcome.resume);
            if asked & wants::CATCH_UP != 0 {
                let since = Some(resume).filter(|resume| !resume.is_none());
                // It fails only for a connection that is closing, which hears why.
                let _ = attachment.request(seq, Ask::CatchUp(since));
            }
            Link::new(shard, attachment, wire, watched, pass).start(transport, buffer, opening);
        }
        Hail::Lines { device } => {
            lines::welcome(&grant, device.map(|_| welcome.last_seq.0), &mut opening);
            let wire = Lines::new(grant.user, welcome.window);
            Link::new(shard, attachment, wire, watched, pass).start(transport, buffer, opening);
        }
    }
}

async fn refuse<T: Transport>(shard: &Shard, watched: &Watched, transport: T, unwelcome: Unwelcome) {
    match unwelcome {
        // A drain stops the reading of those who have not greeted yet.
        Unwelcome::Gone => {}
        Unwelcome::Refused { speech, fault } => {
            let signing_in = matches!(fault.code, Code::Unauthenticated | Code::Revoked);
            count_refusal(Door::TcpSync, if signing_in { Refusal::Auth } else { Refusal::Protocol });
            turn_away(shard, watched, transport, speech, &fault, signing_in).await;
        }
    }
}

/// Says why and closes. What the peer still sends is read and dropped for a moment, so that a reset does not overtake the
/// words.
async fn turn_away<T: Transport>(
    shard: &Shard,
    watched: &Watched,
    transport: T,
    speech: Speech,
    fault: &Fault,
    signing_in: bool,
) {
    let mut out = Vec::new();
    speech.turn_away(fault, signing_in, &mut out);
    watched.expect(shard, LINGER_MS, Refusal::Protocol);
    let (mut input, mut output) = transport.halves();
    if output.write_all(out).await.0.is_err() {
        return;
    }
    output.finish().await;
    let mut buffer = AlignedBuf::with_capacity(ALIGNMENT_BYTES, GREETING_BYTES);
    loop {
        use self::transport::Input;
        let (read, mut back) = input.read(buffer).await;
        if !matches!(read, Ok(count) if count > 0) {
            return;
        }
        back.clear();
        buffer = back;
    }
}

/// Tells a connection that there is no place for it, in the wire it wants to speak.
pub(crate) async fn no_place(shard: Rc<Shard>, mut stream: TcpStream) {
    let watched = shard.watch(Door::TcpSync, stream.closer());
    watched.expect(&shard, TURN_AWAY_MS, Refusal::GreetingTimeout);
    let buffer = AlignedBuf::new(ALIGNMENT_BYTES);
    let Ok((first, _)) = first_byte(&mut stream, buffer).await else { return };
    turn_away(&shard, &watched, stream, Speech::of(first), &no_place_fault(), false).await;
}

/// The last a door sees of an update that is followed: its answer is among the bytes that are written next.
fn log_answered(acked: &engine::Acked) {
    let version = acked.state.key.version;
    if trace::follows(version) {
        tracing::info!(target: trace::TARGET, version = version.0, stage = "answered", door = "tcp_sync");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_made<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn who_says_nothing_costs_little() {
        let bytes = size_of_made(run);
        assert!(bytes <= 272, "{bytes} bytes before the first byte has come");
    }
}
