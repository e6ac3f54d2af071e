//! The wire's reading half, on a connection of its own: follows the stream from a remembered place, hands on what other nodes
//! told, and says when something was missed. The place is good as long as its entry is still there: nothing behind it has been
//! trimmed, and the Redis is the one that it was.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fred::types::Value;
use hub::clock::REMOTE_AHEAD_MAX_MS;
use proto::NodeId;
use rustc_hash::FxHashMap;

use super::entry::{Header, Kind, parse_records, parse_revoked};
use super::roll::Roll;
use super::sender::Keys;
use super::{Event, Handle, Identity, Listener, Origin, unix_ms};
use crate::redis::{Connection, Errors, Failure, Reconnects, count};

/// Entries read at once.
const READ_ENTRIES: usize = 256;

/// How long Redis waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_millis(500);

/// How much longer an answer may take than it has to.
const PATIENCE: Duration = Duration::from_secs(2);

/// After a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// After a shard had no room.
const HELD_UP: Duration = Duration::from_millis(2);

/// Reading begins this far back: what was told just before may not be in the store yet.
const BEGIN_BEFORE_MS: u64 = 30_000;

/// Its own words must have come back this recently for this node to call others dead.
const HEARS: Duration = Duration::from_secs(2);

/// Between two warnings about the clock of one node.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// An entry's place in the stream: milliseconds and a count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct StreamId(u64, u64);

impl StreamId {
    fn parse(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let (ms, count) = text.split_once('-')?;
        Some(Self(ms.parse().ok()?, count.parse().ok()?))
    }

    fn value(self) -> Value {
        format!("{}-{}", self.0, self.1).into()
    }
}

/// An entry as it lies in the stream: its place and its bytes.
fn parse_entry(entry: &Value) -> Option<(StreamId, Option<&[u8]>)> {
    let Value::Array(parts) = entry else { return None };
    let [id, Value::Array(fields)] = parts.as_slice() else { return None };
    let bytes = match fields.as_slice() {
        [_, bytes] => bytes.as_bytes(),
        _ => None,
    };
    Some((StreamId::parse(id)?, bytes))
}

/// What XRANGE and XREVRANGE answer.
fn entries_of(answer: &Value) -> &[Value] {
    match answer {
        Value::Array(entries) => entries,
        _ => &[],
    }
}

/// What XREAD of one stream answers.
fn read_entries_of(answer: &Value) -> &[Value] {
    if let [Value::Array(stream)] = entries_of(answer)
        && let [_, entries] = stream.as_slice()
    {
        return entries_of(entries);
    }
    &[]
}

pub(super) struct Reader {
    connection: Connection,
    keys: Keys,
    node: NodeId,
    epoch: u64,
    handle: Arc<Handle>,
    listener: Listener,
    reconnects: Reconnects,
    errors: Errors,
    roll: Roll,
    /// Where it stands, and whether an entry was read there.
    at: Option<(StreamId, bool)>,
    /// The place has to be looked at before anything is read from it.
    doubtful: bool,
    heard_itself_at: Option<Instant>,
    warned: FxHashMap<NodeId, Instant>,
}

impl Reader {
    pub(super) fn new(
        connection: Connection,
        keys: Keys,
        identity: &Identity,
        handle: Arc<Handle>,
        listener: Listener,
    ) -> Self {
        Self {
            reconnects: Reconnects::of(&connection),
            errors: Errors::of(&connection),
            connection,
            keys,
            node: identity.node,
            epoch: identity.epoch,
            handle,
            listener,
            roll: Roll::default(),
            at: None,
            doubtful: true,
            heard_itself_at: None,
            warned: FxHashMap::default(),
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(failure) = self.step().await {
                self.doubtful = true;
                self.handle.stats.standing.failed(&self.errors.explain(&failure));
                tokio::time::sleep(PAUSE).await;
            }
            self.look_around().await;
        }
    }

    async fn step(&mut self) -> Result<(), Failure> {
        // A new connection may lead to another Redis, or to the same with an older memory.
        self.doubtful |= self.reconnects.came();
        if self.doubtful {
            self.find_place().await?;
            self.doubtful = false;
        }
        let Some((place, is_entry)) = self.at else { return Ok(()) };
        let (block, count) = (BLOCK.as_millis() as i64, READ_ENTRIES as i64);
        let stream = Value::from(self.keys.stream.as_str());
        let arguments =
            vec!["COUNT".into(), count.into(), "BLOCK".into(), block.into(), "STREAMS".into(), stream, place.value()];
        let answer = self.connection.command(BLOCK + PATIENCE, "XREAD", arguments).await?;
        let entries = read_entries_of(&answer);
        for entry in entries {
            let (id, bytes) = parse_entry(entry).ok_or(Failure::Odd)?;
            self.take(bytes).await;
            self.at = Some((id, true));
        }
        // It may be so far behind that the stream has been trimmed under it.
        if entries.len() == READ_ENTRIES && is_entry && !self.is_there(place).await? {
            self.lose_place("it was trimmed");
        }
        Ok(())
    }

    async fn is_there(&self, place: StreamId) -> Result<bool, Failure> {
        let arguments = vec![self.keys.stream.as_str().into(), place.value(), place.value()];
        let found = self.connection.command(PATIENCE, "XRANGE", arguments).await?;
        Ok(!entries_of(&found).is_empty())
    }

    /// Where to read on: where it stood, if that is still there.
    async fn find_place(&mut self) -> Result<(), Failure> {
        if let Some((place, true)) = self.at
            && self.is_there(place).await?
        {
            return Ok(());
        }
        let arguments = vec![self.keys.stream.as_str().into(), "+".into(), "-".into(), "COUNT".into(), 1.into()];
        let last = self.connection.command(PATIENCE, "XREVRANGE", arguments).await?;
        let last = entries_of(&last).first().and_then(parse_entry).map(|(id, _)| id);
        let begin = StreamId(last.map_or(0, |last| last.0.saturating_sub(BEGIN_BEFORE_MS)), 0);
        let why = match self.at {
            None => "this is the beginning",
            Some((place, _)) if last.is_none_or(|last| last < place) => "the stream began anew",
            Some(_) => "it was trimmed",
        };
        self.lose_place(why);
        // Reading something twice changes nothing.
        self.at = Some((begin, false));
        Ok(())
    }

    fn lose_place(&mut self, why: &'static str) {
        if self.at.is_some() {
            count(&self.handle.stats.counts.gaps);
            tracing::warn!(why, "changes of other nodes may have been missed; users are loaded anew");
        }
        self.roll.lose_position(Instant::now());
    }

    async fn take(&mut self, bytes: Option<&[u8]>) {
        let Some((header, body)) = bytes.and_then(Header::parse) else {
            return count(&self.handle.stats.counts.unreadable);
        };
        let handle = Arc::clone(&self.handle);
        let counts = &handle.stats.counts;
        if header.node == self.node {
            if header.epoch == self.epoch {
                self.heard_itself_at = Some(Instant::now());
                let now_ms = unix_ms();
                counts.lag_ms.store(now_ms.saturating_sub(header.sent_unix_ms), Relaxed);
                counts.heard_itself_unix_ms.store(now_ms, Relaxed);
            }
            return;
        }
        count(&counts.received);
        let heard = self.roll.hear(&header, Instant::now());
        if heard.gap {
            count(&counts.gaps);
            tracing::info!(node = header.node.0, "changes of this node were missed; users are loaded anew");
        }
        let origin = Origin { node: header.node, epoch: header.epoch, seq: header.seq };
        match header.kind {
            Kind::Word | Kind::Goodbye => {}
            Kind::Records => match parse_records(body) {
                Some((records, unreadable)) => {
                    self.miss(&header, unreadable);
                    counts.received_records.fetch_add(records.len() as u64, Relaxed);
                    self.look_at_clock(header.node, &records);
                    self.hand_on(Event::Records { origin, records }).await;
                }
                None => self.miss(&header, 1),
            },
            // The store is asked for these every few seconds.
            Kind::Revoked => match parse_revoked(body) {
                Some(revoked) => self.hand_on(Event::Revoked(revoked)).await,
                None => count(&counts.unreadable),
            },
        }
        if let Some(seq) = heard.stored {
            self.hand_on(Event::Stored(Origin { seq, ..origin })).await;
        }
    }

    /// So many changes of an entry cannot be read; a newer version has written them, most likely.
    fn miss(&mut self, header: &Header, unreadable: u64) {
        if unreadable == 0 {
            return;
        }
        let counts = &self.handle.stats.counts;
        counts.unreadable.fetch_add(unreadable, Relaxed);
        count(&counts.gaps);
        self.roll.miss(header, Instant::now());
    }

    /// A clock far ahead is not followed; somebody should set it.
    fn look_at_clock(&mut self, node: NodeId, records: &[hub::Record]) {
        let latest_ms = unix_ms().saturating_add(REMOTE_AHEAD_MAX_MS);
        let ahead = records.iter().filter(|record| record.version().unix_ms() > latest_ms).count();
        if ahead == 0 {
            return;
        }
        self.handle.stats.counts.ahead.fetch_add(ahead as u64, Relaxed);
        let now = Instant::now();
        let warned_at = self.warned.get(&node);
        if warned_at.is_none_or(|at| now.saturating_duration_since(*at) >= WARN_EVERY) {
            tracing::warn!(node = node.0, "this node's clock is more than a minute ahead of this one's; set it");
            self.warned.retain(|_, at| now.saturating_duration_since(*at) < WARN_EVERY);
            self.warned.insert(node, now);
        }
    }

    async fn hand_on(&mut self, event: Event) {
        let mut event = event;
        while let Err(back) = (self.listener)(event) {
            // The stream keeps what comes meanwhile.
            count(&self.handle.stats.counts.held_up);
            event = back;
            tokio::time::sleep(HELD_UP).await;
        }
    }

    async fn look_around(&mut self) {
        let now = Instant::now();
        if self.heard_itself_at.is_some_and(|at| now.saturating_duration_since(at) < HEARS) {
            let dead = self.roll.bury(now);
            if dead > 0 {
                tracing::warn!(nodes = dead, "other nodes have gone silent");
                self.handle.stats.counts.silent.fetch_add(dead as u64, Relaxed);
            }
        }
        self.handle.stats.counts.others.store(self.roll.alive() as u64, Relaxed);
        if self.roll.is_due(now) {
            self.hand_on(Event::Reload).await;
            count(&self.handle.stats.counts.reloads);
        }
        self.handle.stats.counts.gap_open.store(u64::from(self.roll.is_gap_open()), Relaxed);
    }
}
