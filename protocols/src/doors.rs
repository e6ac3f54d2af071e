//! Opening, serving and closing a shard's doors. Listeners are bound per shard on the same addresses; every accepted
//! connection passes admission before a byte of it is read; a drain closes the listeners first and then shows everybody out.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use engine::{Encoders, Engine};
use futures_util::future::{Either, select};
use runtime::ShardContext;
use runtime::net::{TcpListener, TcpStream};

use crate::admission::Door;
use crate::config::{DoorError, DoorPlan};
use crate::shard::{Shard, spawn_connection};
use crate::{http, metrics_door, tcp_sync};

/// Connections without a place that are being told so at a time; more are closed without a word.
const TURNED_AWAY_MAX: u32 = 64;

/// The encoders of announcements: hand them to `engine::start`.
pub fn encoders() -> Encoders {
    tcp_sync::encoders(Encoders::new())
}

/// A shard's open doors.
pub struct Doors {
    shard: Rc<Shard>,
    listeners: Vec<(Door, TcpListener)>,
}

/// Opens this shard's doors; nothing is accepted before `serve`.
pub fn open(engine: Engine, context: ShardContext, plan: &DoorPlan) -> Result<Doors, DoorError> {
    let config = &plan.inner.config;
    let mut listeners = Vec::new();
    for (door, address) in [(Door::TcpSync, config.tcp_sync), (Door::Http, config.http)] {
        if address.is_some() {
            listeners.push((door, plan.listen(door)?));
        }
    }
    // A scraper asks rarely: one shard is enough.
    if config.metrics.is_some() && context.id == 0 {
        listeners.push((Door::Metrics, plan.listen(Door::Metrics)?));
    }
    Ok(Doors { shard: Shard::new(engine, context, plan.inner.clone()), listeners })
}

/// What `engine::start` calls on every shard: opens the doors and serves until they are closed.
pub fn start_doors(engine: Engine, context: ShardContext, plan: &DoorPlan) -> Result<engine::Serving, DoorError> {
    let doors = open(engine, context, plan)?;
    Ok(Box::pin(doors.serve()))
}

impl Doors {
    /// Serves until the drain begins, then drains.
    pub async fn serve(self) {
        let shard = Rc::clone(&self.shard);
        drop(runtime::spawn_essential("watch over connections", Rc::clone(&shard).keep_watch()));
        drop(runtime::spawn_essential("connections from other shards", tcp_sync::take_in(Rc::clone(&shard))));
        let accepting: Vec<_> = self
            .listeners
            .into_iter()
            .map(|(door, listener)| runtime::spawn_essential("accept", accept(Rc::clone(&shard), door, listener)))
            .collect();
        shard.context.drain.draining().await;
        for accepted in accepting {
            let _ = accepted.await;
        }
        drain(&shard).await;
    }
}

/// Shows every connection out and returns when all have gone, or at the hard stop.
async fn drain(shard: &Shard) {
    let stopped = std::pin::pin!(shard.context.stop.stopped());
    let shown_out = std::pin::pin!(shard.show_everyone_out());
    select(stopped, shown_out).await;
}

/// Accepts until the drain begins; then takes in what the kernel had already completed, and closes the listener.
async fn accept(shard: Rc<Shard>, door: Door, mut listener: TcpListener) {
    let turned_away = Rc::new(Cell::new(0));
    let drain = shard.context.drain.clone();
    loop {
        let accepted = {
            let draining = std::pin::pin!(drain.draining());
            let accepted = std::pin::pin!(listener.accept());
            match select(draining, accepted).await {
                Either::Left(_) => None,
                Either::Right((accepted, _)) => Some(accepted),
            }
        };
        match accepted {
            None => break,
            Some(Ok((stream, peer))) => welcome(&shard, door, stream, peer, &turned_away),
            Some(Err(problem)) => {
                // A door that takes nobody in while the others do is invisible loss: the whole server goes.
                tracing::error!(door = door.as_str(), %problem, "the listener is broken; the server stops");
                shard.context.shutdown.drain();
                break;
            }
        }
    }
    for (stream, peer) in listener.close() {
        welcome(&shard, door, stream, peer, &turned_away);
    }
}

fn welcome(shard: &Rc<Shard>, door: Door, stream: TcpStream, peer: SocketAddr, turned_away: &Rc<Cell<u32>>) {
    let shard = Rc::clone(shard);
    let may_hear_why = turned_away.get() < TURNED_AWAY_MAX;
    match (shard.plan.admission.admit(door, peer.ip()), door) {
        (Ok(pass), Door::TcpSync) => spawn_connection(door, tcp_sync::run(shard, stream, pass)),
        (Ok(pass), Door::Http) => spawn_connection(door, http::connection::run(shard, stream, peer, Some(pass))),
        (Ok(pass), Door::Metrics) => spawn_connection(door, metrics_door::run(shard, stream, peer, pass)),
        (Err(_), Door::TcpSync) if may_hear_why => {
            turn_away(door, turned_away, tcp_sync::no_place(shard, stream));
        }
        (Err(_), Door::Http) if may_hear_why => {
            turn_away(door, turned_away, http::connection::run(shard, stream, peer, None));
        }
        (Err(_), _) => drop(stream),
    }
}

/// Tells a connection that there is no place for it.
fn turn_away(door: Door, turned_away: &Rc<Cell<u32>>, telling: impl Future<Output = ()> + 'static) {
    let place = Place::take(turned_away);
    spawn_connection(door, async move {
        telling.await;
        drop(place);
    });
}

/// A place among those who are being turned away.
struct Place(Rc<Cell<u32>>);

impl Place {
    fn take(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
