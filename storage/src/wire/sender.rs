//! The wire's sending half: takes what the journal has made durable, appends it to the stream in pipelines, one after the other,
//! says a word twice a second, and keeps this node's entry among the nodes fresh. What was not answered is sent again: readers
//! merge it twice, which changes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use fred::interfaces::ClientLike;
use fred::types::Value;
use fred::types::config::Config;
use tokio::sync::mpsc;

use super::entry::{Header, Kind};
use super::outbox::Outbox;
use super::reader::Reader;
use super::{Begin, Conflict, Handle, Identity, Message, WORD_EVERY, WireConfig, unix_ms};
use crate::journal::{Cursors, Lsn};
use crate::redis::{Circuit, Connection, Failure, Local, at_once, command, count, failure, next, sha1, within};

const NODES_SCRIPT: &str = include_str!("nodes.lua");

/// Entries of one pipeline: a megabyte.
const SEND_ENTRIES_MAX: usize = 64;

/// Messages taken at once.
const MESSAGES_MAX: usize = 256;

/// A node that was not heard of for this long is told nothing any more: when it comes back, it loads its users anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// At the start, how long to wait for Redis before going on without having asked it.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// The keys that the nodes of one store share.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) stream: String,
    nodes: String,
}

impl Keys {
    pub(super) fn of(identity: &Identity) -> Self {
        let store = identity.store;
        Self { stream: format!("mangahub:wire:v1:{store}"), nodes: format!("mangahub:nodes:v1:{store}") }
    }
}

/// What Redis says to this node's entry among the others.
#[derive(Debug)]
struct Claim {
    conflict: Option<Conflict>,
    others: u64,
}

impl Claim {
    fn parse(answer: &Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let [verdict, who, others] = parts.as_slice() else { return None };
        let (verdict, who) = (verdict.as_str()?, who.as_str()?.into_owned());
        let conflict = match &*verdict {
            "ok" => None,
            "taken" => Some(Conflict::Taken { place: who }),
            "secret" => Some(Conflict::Secret { node: who }),
            _ => return None,
        };
        Some(Self { conflict, others: others.as_u64()? })
    }
}

pub(super) struct Sender {
    connection: Connection,
    inbox: mpsc::Receiver<Message>,
    handle: Arc<Handle>,
    config: WireConfig,
    identity: Identity,
    keys: Keys,
    nodes_sha: String,
    circuit: Circuit,
    /// Nothing before recovery is over.
    outbox: Option<(Outbox, Cursors)>,
    left_out: u64,
    /// A word, and this node's entry among the others, are due.
    word_due: bool,
    conflict: Option<Conflict>,
    sending: Option<Local<Result<Option<Claim>, Failure>>>,
    probing: Option<Local<Result<(), Failure>>>,
    stop_at: Option<tokio::time::Instant>,
}

impl Sender {
    pub(super) fn new(
        connection: Connection,
        inbox: mpsc::Receiver<Message>,
        handle: Arc<Handle>,
        config: WireConfig,
        identity: Identity,
    ) -> Self {
        Self {
            circuit: Circuit::new(&connection, "the other nodes hear of changes later"),
            connection,
            inbox,
            handle,
            config,
            keys: Keys::of(&identity),
            identity,
            nodes_sha: sha1(NODES_SCRIPT),
            outbox: None,
            left_out: 0,
            word_due: true,
            conflict: None,
            sending: None,
            probing: None,
            stop_at: None,
        }
    }

    /// Enters this node among the others; what is in the way is answered, once a node that died can no longer be what it is.
    pub(super) async fn enter(&mut self) -> Option<Conflict> {
        let begun = Instant::now();
        loop {
            if self.connection.is_there() {
                let entered = self.connection.command(self.config.timeout, "EVAL", self.claim(NODES_SCRIPT)).await;
                match entered.as_ref().ok().and_then(Claim::parse) {
                    Some(claim) if claim.conflict.is_none() => {
                        self.note_claim(claim);
                        return None;
                    }
                    Some(claim) if begun.elapsed() > self.config.claim + FIRST_ANSWER => return claim.conflict,
                    // It may have died just now.
                    Some(_) => {}
                    None if begun.elapsed() > FIRST_ANSWER => return None,
                    None => {}
                }
            } else if begun.elapsed() > FIRST_ANSWER {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs until it is told to stop and what waited is told, or its time is up.
    pub(super) async fn run(mut self, reader: Config) {
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (keys, identity, handle) = (self.keys.clone(), self.identity.clone(), Arc::clone(&self.handle));
        let reading = async move {
            if let Ok(listener) = begun.await {
                Reader::new(Connection::start(reader), keys, &identity, handle, listener).run().await;
            }
            // The end of reading is not the end of sending.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.send(begin) => {}
            () = reading => {}
        }
        self.leave().await;
    }

    async fn send(&mut self, begin: tokio::sync::oneshot::Sender<super::Listener>) {
        let mut begin = Some(begin);
        let mut messages = Vec::with_capacity(MESSAGES_MAX);
        let mut words = tokio::time::interval(WORD_EVERY);
        words.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.begin_send();
            self.publish();
            let stopping = self.stop_at.is_some();
            if stopping && self.sending.is_none() && (!self.circuit.breaker.is_closed() || !self.has_something()) {
                return;
            }
            tokio::select! {
                taken = self.inbox.recv_many(&mut messages, MESSAGES_MAX), if !stopping => {
                    if taken == 0 {
                        return;
                    }
                    messages.drain(..).for_each(|message| self.take(message, &mut begin));
                }
                sent = next(&mut self.sending) => self.sent(sent),
                probed = next(&mut self.probing) => self.probed(probed),
                () = self.circuit.probe_is_due() => self.probe(),
                _ = words.tick(), if !stopping => self.word_due = true,
                () = tokio::time::sleep_until(self.stop_at.unwrap_or_else(tokio::time::Instant::now)),
                    if stopping => return,
            }
        }
    }

    fn take(&mut self, message: Message, begin: &mut Option<tokio::sync::oneshot::Sender<super::Listener>>) {
        match (message, &mut self.outbox) {
            (Message::Begin(Begin { cursors, recovered, listener }), _) => {
                self.outbox = Some((Outbox::new(recovered, self.config.queue_bytes_max), cursors));
                self.word_due = true;
                if let Some(begin) = begin.take() {
                    let _ = begin.send(listener);
                }
            }
            (Message::Committed(committed), outbox) => {
                self.handle.inbox_bytes.fetch_sub(committed.bytes(), Relaxed);
                if let Some((outbox, _)) = outbox
                    && !outbox.take(&committed)
                {
                    count(&self.handle.stats.counts.dropped);
                }
            }
            (Message::Revoked(revoked), Some((outbox, _))) => {
                if !outbox.take_revoked(&revoked) {
                    count(&self.handle.stats.counts.dropped);
                }
            }
            (Message::Revoked(_), None) => {}
            (Message::Stop { patience }, _) => self.stop_at = Some(tokio::time::Instant::now() + patience),
        }
    }

    fn has_something(&self) -> bool {
        self.outbox.as_ref().is_some_and(|(outbox, _)| outbox.len() > 0)
    }

    fn publish(&self) {
        let stats = &self.handle.stats;
        stats.standing.set_breaker(self.circuit.breaker.state());
        let bytes = self.outbox.as_ref().map_or(0, |(outbox, _)| outbox.bytes());
        stats.counts.queue_bytes.store(bytes as u64, Relaxed);
    }

    /// Appends what waits, says a word when one is due.
    fn begin_send(&mut self) {
        if self.sending.is_some() || !self.circuit.breaker.is_closed() || (!self.word_due && !self.has_something()) {
            return;
        }
        let mut entries = Vec::new();
        let is_taken = matches!(self.conflict, Some(Conflict::Taken { .. }));
        // Under an id that another run has, nothing is told: nobody could tell whose it is.
        if !is_taken && self.outbox.is_some() {
            self.leave_out();
            self.gather(&mut entries);
        }
        let claim = std::mem::take(&mut self.word_due).then(|| self.claim(&self.nodes_sha));
        if claim.is_none() && entries.is_empty() {
            return;
        }
        let appends: Vec<Vec<Value>> = entries.into_iter().map(|entry| self.append(entry)).collect();
        let (connection, patience) = (self.connection.clone(), self.config.timeout);
        self.sending = Some(Box::pin(async move { deliver(&connection, patience, claim, appends).await }));
    }

    /// What did not find its way here is missing in the stream from now on.
    fn leave_out(&mut self) {
        let left_out = self.handle.left_out.load(Acquire);
        if left_out != self.left_out
            && let Some((outbox, _)) = &mut self.outbox
        {
            self.left_out = left_out;
            outbox.leave_out(Lsn(self.handle.left_out_until.load(Acquire)));
        }
    }

    fn gather(&mut self, entries: &mut Vec<Vec<u8>>) {
        let Some((outbox, cursors)) = &mut self.outbox else { return };
        outbox.settle(&cursors.snapshot());
        let Identity { node, epoch, .. } = self.identity;
        let (stored, all) = (outbox.stored(), outbox.len() <= SEND_ENTRIES_MAX);
        let header = Header { kind: Kind::Word, node, epoch, seq: outbox.seq(), stored, sent_unix_ms: unix_ms() };
        let waiting = outbox.next(SEND_ENTRIES_MAX);
        entries.extend(waiting.map(|entry| Header { kind: entry.kind, seq: entry.seq, ..header }.with(&entry.body)));
        // A word names the last number: not before everything up to it was told.
        if self.word_due && all {
            entries.push(header.with(&[]));
        }
    }

    fn append(&self, entry: Vec<u8>) -> Vec<Value> {
        let kept = i64::from(self.config.stream_entries);
        let stream = Value::from(self.keys.stream.as_str());
        let entry = Value::Bytes(entry.into());
        vec![stream, "MAXLEN".into(), "~".into(), kept.into(), "*".into(), "e".into(), entry]
    }

    /// The arguments that enter this node among the others; `script` is the script or its name.
    fn claim(&self, script: &str) -> Vec<Value> {
        let Identity { node, epoch, place, secret_print, .. } = &self.identity;
        vec![
            script.into(),
            1.into(),
            self.keys.nodes.as_str().into(),
            format!("{:08x}", node.0).into(),
            epoch.to_string().into(),
            place.as_str().into(),
            secret_print.as_str().into(),
            millis(self.config.claim).into(),
            millis(FORGOTTEN_AFTER).into(),
        ]
    }

    fn note_claim(&mut self, claim: Claim) {
        let Claim { conflict, others } = claim;
        if conflict != self.conflict {
            match &conflict {
                Some(conflict) => tracing::error!(%conflict, "this node is in conflict with another"),
                None => tracing::info!("this node is in conflict with no other any more"),
            }
            self.handle.stats.set_conflict(conflict.clone());
        }
        // A conflict says nothing about who has to be told.
        let is_alone = others == 0 && conflict.is_none();
        self.handle.stats.alone.store(is_alone, Relaxed);
        self.conflict = conflict;
    }

    fn sent(&mut self, sent: Result<Option<Claim>, Failure>) {
        let arrived = sent.is_ok();
        if let Some((outbox, _)) = &mut self.outbox {
            let entries = outbox.sent(arrived);
            self.handle.stats.counts.sent.fetch_add(entries as u64, Relaxed);
        }
        match sent {
            Ok(claim) => {
                self.circuit.breaker.succeeded();
                if let Some(claim) = claim {
                    self.note_claim(claim);
                }
            }
            Err(failure) => {
                self.word_due = true;
                count(&self.handle.stats.counts.send_failures);
                match failure {
                    // It has been restarted: the probe brings the script.
                    Failure::NoScript => self.probe(),
                    failure => self.failed(&failure),
                }
            }
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let stats = &self.handle.stats;
        if self.circuit.failed(failure, &stats.standing) {
            count(&stats.counts.opened);
        }
    }

    fn probe(&mut self) {
        self.circuit.breaker.probing();
        let (connection, patience) = (self.connection.clone(), self.config.timeout);
        self.probing = Some(Box::pin(async move { connection.load_scripts(patience, &[NODES_SCRIPT]).await }));
    }

    fn probed(&mut self, probed: Result<(), Failure>) {
        match probed {
            Ok(()) => {
                self.circuit.breaker.close();
                self.word_due = true;
            }
            Err(failure) => self.failed(&failure),
        }
    }

    /// The last word: everything was told. And this node is no longer among the others.
    async fn leave(&mut self) {
        let is_taken = matches!(self.conflict, Some(Conflict::Taken { .. }));
        if is_taken || !self.circuit.breaker.is_closed() || self.stop_at.is_none() {
            return self.connection.close(self.config.timeout).await;
        }
        self.leave_out();
        let has_more = self.has_something();
        if let Some((outbox, cursors)) = &mut self.outbox
            && !has_more
        {
            outbox.settle(&cursors.snapshot());
            let Identity { node, epoch, .. } = self.identity;
            let (seq, stored) = (outbox.seq(), outbox.stored());
            let header = Header { kind: Kind::Goodbye, node, epoch, seq, stored, sent_unix_ms: unix_ms() };
            let appends = vec![self.append(header.with(&[]))];
            if let Err(failure) = deliver(&self.connection, self.config.timeout, None, appends).await {
                tracing::warn!(error = failure.text(), "the other nodes were not told that this one ends");
            }
        }
        let own = vec![self.keys.nodes.as_str().into(), format!("{:08x}", self.identity.node.0).into()];
        let _ = self.connection.command(self.config.timeout, "HDEL", own).await;
        self.connection.close(self.config.timeout).await;
    }
}

/// One pipeline: this node's entry among the others, then what is appended to the stream.
async fn deliver(
    connection: &Connection,
    patience: Duration,
    claim: Option<Vec<Value>>,
    appends: Vec<Vec<Value>>,
) -> Result<Option<Claim>, Failure> {
    let pipeline = connection.client.pipeline().with_options(&at_once());
    let claims = claim.is_some();
    let queued = async {
        if let Some(claim) = claim {
            let _: () = pipeline.custom(command("EVALSHA"), claim).await?;
        }
        for append in appends {
            let _: () = pipeline.custom(command("XADD"), append).await?;
        }
        Ok(())
    };
    queued.await.map_err(|error: fred::error::Error| failure(&error))?;
    let answers = within(patience, async { Ok(pipeline.try_all::<Value>().await) }).await?;
    let mut first = None;
    for (at, answer) in answers.into_iter().enumerate() {
        let answer = answer.map_err(|error| failure(&error))?;
        if claims && at == 0 {
            first = Some(Claim::parse(&answer).ok_or(Failure::Odd)?);
        }
    }
    Ok(first)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
